"""Watches through kopf: an event only wakes a key. The only module that imports kopf.

kopf writes nothing: no finalizers, no annotations, no events.
"""

import asyncio
import logging
from collections import defaultdict
from typing import Any, Final

import kopf

from tuneyard_api import names
from tuneyard_operator.objects import Json
from tuneyard_operator.settings import Settings
from tuneyard_operator.workqueue import Key, WorkQueue

FTJ: Final = "FineTuneJob"
MS: Final = "ModelServer"
OURS: Final = ",".join(f"{key}={value}" for key, value in names.MANAGED_BY.items())
OWNER_LABELS: Final = {names.LABEL_FINETUNEJOB: FTJ, names.LABEL_MODELSERVER: MS}
STUCK_SECONDS: Final = 300.0  # a reconcile is a few requests of at most 30 s


class Followers:
    """Which ModelServers refer to a FineTuneJob."""

    def __init__(self) -> None:
        self._job: dict[Key, str] = {}
        self._servers: defaultdict[tuple[str, str], set[Key]] = defaultdict(set)

    def note(self, server: Key, job: str | None) -> None:
        if before := self._job.pop(server, None):
            self._servers[(server.namespace, before)].discard(server)
        if job:
            self._job[server] = job
            self._servers[(server.namespace, job)].add(server)

    def of(self, job: Key) -> set[Key]:
        return self._servers.get((job.namespace, job.name), set())


def registry(queue: WorkQueue) -> kopf.OperatorRegistry:
    """The handlers: each wakes the key that an object is about."""
    handlers = kopf.OperatorRegistry()
    followers = Followers()

    @kopf.on.event(names.GROUP, names.VERSION, "finetunejobs", registry=handlers)
    async def fine_tune_job(namespace: str, name: str, **_: Any) -> None:
        key = Key(FTJ, namespace, name)
        queue.wake(key)
        for server in followers.of(key):
            queue.wake(server)

    @kopf.on.event(names.GROUP, names.VERSION, "modelservers", registry=handlers)
    async def model_server(namespace: str, name: str, spec: Json, type: str | None, **_: Any) -> None:
        key = Key(MS, namespace, name)
        reference = spec.get("model", {}).get("fineTuneJobRef") or {}
        followers.note(key, None if type == "DELETED" else reference.get("name"))
        queue.wake(key)

    @kopf.on.event("batch", "v1", "jobs", labels=names.MANAGED_BY, registry=handlers)
    @kopf.on.event("apps", "v1", "deployments", labels=names.MANAGED_BY, registry=handlers)
    @kopf.on.event("", "v1", "pods", labels=names.MANAGED_BY, registry=handlers)
    async def child(namespace: str, labels: Json, **_: Any) -> None:
        for label, kind in OWNER_LABELS.items():
            if label in labels:
                queue.wake(Key(kind, namespace, labels[label]))

    @kopf.on.probe(registry=handlers)
    async def queue_moves(**_: Any) -> str:
        if (waited := queue.longest_wait()) > STUCK_SECONDS:
            raise RuntimeError(f"a key waits since {waited:.0f} s")
        return "moves"

    return handlers


def kopf_settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True  # the CRDs are there when the operator starts
    return settings


async def watch(queue: WorkQueue, settings: Settings, stop: asyncio.Event) -> None:
    """Watches until `stop` is set."""
    logging.getLogger("kopf").setLevel(logging.WARNING)
    await kopf.operator(
        registry=registry(queue),
        settings=kopf_settings(),
        standalone=True,
        clusterwide=not settings.namespaces,
        namespaces=settings.namespaces,
        liveness_endpoint=f"http://0.0.0.0:{settings.health_port}/healthz",
        stop_flag=stop,
    )
