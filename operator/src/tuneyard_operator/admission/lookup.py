"""Whether the objects exist that a spec names."""

from collections.abc import Callable, Collection
from typing import Final, Protocol

from tuneyard_operator.machinery.objects import Json
from tuneyard_operator.machinery.resources import Resource

FINE_TUNE_JOB: Final = "FineTuneJob"
CLUSTER_SCOPED: Final = ("PriorityClass",)

# The kinds that are asked for, not watched. Kueue before 0.14 has only the older version.
OLDER_LOCAL_QUEUE: Final = "LocalQueue v1beta1"
RESOURCES: Final = {
    "Secret": Resource("v1", "Secret", "secrets"),
    "PriorityClass": Resource("scheduling.k8s.io/v1", "PriorityClass", "priorityclasses"),
    "LocalQueue": Resource("kueue.x-k8s.io/v1beta2", "LocalQueue", "localqueues"),
    OLDER_LOCAL_QUEUE: Resource("kueue.x-k8s.io/v1beta1", "LocalQueue", "localqueues"),
}


class Lookup(Protocol):
    """Answers whether an object exists; None: it cannot know."""

    async def exists(self, kind: str, namespace: str, name: str) -> bool | None: ...


class ClusterLookup:
    """Looks for FineTuneJobs in the cache, and asks the API server for other kinds: those in `kinds` alone.

    It is not asked for the others, because the operator has no right to read them.
    """

    def __init__(self, kube: Lookup, cached: Callable[[str, str, str], Json | None], kinds: Collection[str]) -> None:
        self._kube = kube
        self._cached = cached
        self._kinds = kinds

    async def exists(self, kind: str, namespace: str, name: str) -> bool | None:
        """Raises ApiError where the API server does not answer."""
        if kind == FINE_TUNE_JOB:
            return self._cached(kind, namespace, name) is not None
        if kind not in self._kinds:
            return None
        scope = "" if kind in CLUSTER_SCOPED else namespace
        versions = ("LocalQueue", OLDER_LOCAL_QUEUE) if kind == "LocalQueue" else (kind,)
        for version in versions:
            if await self._kube.exists(version, scope, name):
                return True
        return False
