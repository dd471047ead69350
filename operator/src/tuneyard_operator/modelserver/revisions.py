"""The revisions of a ModelServer: one view for each Deployment and its pods, made once for a plan."""

from collections.abc import Mapping
from typing import Final, NamedTuple

from tuneyard_api import names, reasons
from tuneyard_operator.machinery.objects import (
    Json,
    condition,
    is_deleting,
    label,
    left_by_namesake,
    name,
    owned_by,
    uid,
)
from tuneyard_operator.modelserver.children import ENGINE, FETCH, PROXY
from tuneyard_operator.modelserver.observe import World
from tuneyard_operator.pods.termination import container_status, stuck_message, terminated, termination

# How often each container may fail before its revision has failed, in the order in which failures are reported.
MAX_FAILURES: Final[Mapping[str, int]] = {FETCH: 2, ENGINE: 3, PROXY: 3}

# The Deployment controller's reason when all replicas were ready. It stays when pods are lost later.
ROLLED_OUT: Final = "NewReplicaSetAvailable"


class Counts(NamedTuple):
    """The pods of a revision."""

    desired: int
    existing: int
    ready: int
    all_available: bool  # the Deployment's controller has seen its latest spec, and every desired pod is available


class Trouble(NamedTuple):
    """What went wrong last in a revision that is not ready."""

    reason: str
    message: str
    is_final: bool  # another try will not help


class Revision(NamedTuple):
    """One revision: its Deployment and its pods."""

    name: str
    deployment: Json
    counts: Counts
    was_ready: bool  # a replica is ready, or all of them were at some time
    is_verified: bool  # a pod has fetched the artifact and verified its digest
    trouble: Trouble | None
    message: str  # why a pod is not ready, or an empty string


class Revisions(NamedTuple):
    """All revisions of a ModelServer."""

    existing: Mapping[str, Revision]  # by name
    deleting: frozenset[str]  # names of the Deployments that are being deleted
    selected: str | None  # the revision that the Service selects

    def get(self, revision: str | None) -> Revision | None:
        return self.existing.get(revision) if revision is not None else None


def read_revisions(world: World) -> Revisions:
    found: dict[str, Revision] = {}
    for deployment in world.deployments:
        revision = label(deployment, names.LABEL_REVISION)
        if belongs_to_server(deployment, world) and not is_deleting(deployment) and revision not in found:
            found[revision] = _revision(revision, deployment, world)
    deleting = frozenset(name(deployment) for deployment in world.deployments if is_deleting(deployment))
    selector: Json = (world.service or {}).get("spec", {}).get("selector", {})
    return Revisions(found, deleting, selector.get(names.LABEL_REVISION))


def belongs_to_server(child: Json, world: World) -> bool:
    """Whether it is the ModelServer's. Children of a deleted ModelServer of the same name are reused."""
    return owned_by(child, uid(world.server)) or left_by_namesake(child, world.server)


def _revision(revision: str, deployment: Json, world: World) -> Revision:
    pods = [pod for pod in world.pods if label(pod, names.LABEL_REVISION) == revision and not is_deleting(pod)]
    counts = _counts(deployment)
    stuck = _stuck(pods, world.warnings)
    trouble = _container_trouble(pods) or _deadline_trouble(deployment, stuck)
    return Revision(
        name=revision,
        deployment=deployment,
        counts=counts,
        was_ready=counts.ready > 0 or condition(deployment, "Progressing").get("reason") == ROLLED_OUT,
        is_verified=any(terminated(pod, FETCH).get("exitCode") == 0 for pod in pods),
        trouble=trouble,
        message=f"{trouble.reason}: {trouble.message}" if trouble else stuck,
    )


def _counts(deployment: Json) -> Counts:
    status = deployment.get("status", {})
    desired = int(deployment["spec"].get("replicas", 1))
    is_observed = int(status.get("observedGeneration", 0)) >= int(deployment["metadata"].get("generation", 0))
    return Counts(
        desired=desired,
        existing=int(status.get("replicas", 0)),
        ready=int(status.get("readyReplicas", 0)),
        all_available=is_observed and int(status.get("availableReplicas", 0)) >= desired,
    )


def _container_trouble(pods: list[Json]) -> Trouble | None:
    """How a container last failed, in any of the pods."""
    for container in MAX_FAILURES:
        for pod in pods:
            if trouble := _failure(pod, container):
                return trouble
    return None


def _failure(pod: Json, container: str) -> Trouble | None:
    """How the last run of a container failed; None where it did not, or the container is ready again."""
    status = container_status(pod, container)
    ended = terminated(pod, container, last=True)
    is_ready = status.get("ready") and "running" in status.get("state", {})
    failed = termination(pod, container, last=True)
    if failed is None or ended.get("exitCode") == 0 or is_ready:
        return None
    is_crash = container == ENGINE and failed.reason == reasons.STAGE_CRASHED
    # A store that does not answer is waited for until the deadline.
    may_recover = container == FETCH and ended.get("exitCode") == names.EXIT_TRY_AGAIN
    return Trouble(
        reason=reasons.ENGINE_CRASHED if is_crash else failed.reason,
        message=failed.text,
        is_final=not may_recover and _failures(status) >= MAX_FAILURES[container],
    )


def _failures(status: Json) -> int:
    """How often a container has ended."""
    return int(status.get("restartCount", 0)) + ("terminated" in status.get("state", {}))


def _deadline_trouble(deployment: Json, stuck: str) -> Trouble | None:
    progressing = condition(deployment, "Progressing")
    missed = (progressing.get("status"), progressing.get("reason")) == ("False", reasons.PROGRESS_DEADLINE_EXCEEDED)
    if not missed:
        return None
    message = f"not ready within {deployment['spec'].get('progressDeadlineSeconds')} s"
    return Trouble(reasons.PROGRESS_DEADLINE_EXCEEDED, f"{message}: {stuck}" if stuck else message, is_final=True)


def _stuck(pods: list[Json], warnings: Mapping[str, str]) -> str:
    """Why one of the pods does not start, or an empty string."""
    for pod in pods:
        if message := stuck_message(pod) or warnings.get(uid(pod), ""):
            return f"pod {name(pod)}: {message}"
    return ""
