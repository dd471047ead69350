"""What the children of a ModelServer say about its revisions."""

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
from tuneyard_operator.machinery.plan import Rejection
from tuneyard_operator.modelserver.children import ENGINE, FETCH
from tuneyard_operator.pods.termination import Outcome, container_status, outcome, stuck_message, terminated

# Tries before a revision is given up; a store that is away (75) is waited for until the deadline.
FETCH_TRIES: Final = 2
ENGINE_TRIES: Final = 3

# Why a Deployment progresses no further: it has been complete. It stays when pods are lost later.
ROLLED_OUT: Final = "NewReplicaSetAvailable"
DEADLINE: Final = "ProgressDeadlineExceeded"
ENGINE_CRASHED: Final = "EngineCrashed"
BAD_ARTIFACT: Final = (reasons.ARTIFACT_CORRUPT, reasons.ARTIFACT_NOT_FOUND)


class World(NamedTuple):
    """All that a plan is made from."""

    server: Json  # the ModelServer
    deployments: list[Json] = []
    pods: list[Json] = []
    service: Json | None = None
    job: Json | None = None  # the FineTuneJob that it follows
    warnings: Mapping[str, str] = {}  # the last warning about a pod that does not come up, by the pod's uid
    silence: float = 0.0  # seconds since anything new was heard of the server, its children or their warnings
    rejection: Rejection | None = None  # the API server did not take what was planned


class Seen(NamedTuple):
    """One revision's Deployment and pods, read together."""

    deployment: Json
    ready: bool  # all replicas
    came_up: bool  # one replica is ready, or all were at some time
    replicas: int
    ready_replicas: int
    short: bool  # fewer pods than wanted
    verified: bool  # a pod has fetched and verified the artifact
    trouble: Outcome | None  # what went wrong last
    hopeless: bool  # trouble that another try will not mend
    message: str  # why a pod does not come up, or how far it is


def own_deployments(world: World) -> list[Json]:
    return [each for each in world.deployments if is_ours(each, world)]


def is_ours(child: Json, world: World) -> bool:
    """What a ModelServer of this name has left is taken over: what serves goes on, and the rest goes."""
    return owned_by(child, uid(world.server)) or left_by_namesake(child, world.server)


def pointed(world: World) -> str | None:
    """The revision that the Service selects."""
    selector: Json = (world.service or {}).get("spec", {}).get("selector", {})
    return selector.get(names.LABEL_REVISION)


def see(world: World, revision: str | None) -> Seen | None:
    """None where the revision has no Deployment."""
    found = (each for each in own_deployments(world) if label(each, names.LABEL_REVISION) == revision)
    deployment = next((each for each in found if not is_deleting(each)), None)
    if deployment is None:
        return None
    pods = [pod for pod in world.pods if label(pod, names.LABEL_REVISION) == revision and not is_deleting(pod)]
    status = deployment.get("status", {})
    wanted = int(deployment["spec"].get("replicas", 1))
    replicas, ready_replicas = int(status.get("replicas", 0)), int(status.get("readyReplicas", 0))
    trouble = _trouble(deployment, pods, world.warnings)
    return Seen(
        deployment=deployment,
        ready=_is_current(deployment) and int(status.get("availableReplicas", 0)) >= wanted,
        came_up=bool(ready_replicas) or condition(deployment, "Progressing").get("reason") == ROLLED_OUT,
        replicas=replicas,
        ready_replicas=ready_replicas,
        short=replicas < wanted,
        verified=any(terminated(pod, FETCH).get("exitCode") == 0 for pod in pods),
        trouble=trouble[0],
        hopeless=trouble[1],
        message=_message(pods, world.warnings),
    )


def _is_current(deployment: Json) -> bool:
    observed = deployment.get("status", {}).get("observedGeneration", 0)
    return int(observed) >= int(deployment["metadata"].get("generation", 0))


def _trouble(deployment: Json, pods: list[Json], warnings: Mapping[str, str]) -> tuple[Outcome | None, bool]:
    """(what went wrong, whether that is final); the most telling first."""
    for pod in pods:
        if failed := _failure(pod, FETCH):
            again = terminated(pod, FETCH, last=True).get("exitCode") == names.EXIT_TRY_AGAIN
            return failed, not again and _tries(pod, FETCH) >= FETCH_TRIES
    for pod in pods:
        if failed := _failure(pod, ENGINE):
            reason = ENGINE_CRASHED if failed.reason == reasons.STAGE_CRASHED else failed.reason
            return failed._replace(reason=reason), _tries(pod, ENGINE) >= ENGINE_TRIES
    progressing = condition(deployment, "Progressing")
    if progressing.get("status") == "False" and progressing.get("reason") == DEADLINE:
        seconds = deployment["spec"].get("progressDeadlineSeconds")
        said = _message(pods, warnings)
        return Outcome(DEADLINE, f"not ready within {seconds} s{f': {said}' if said else ''}"), True
    return None, False


def _failure(pod: Json, container: str) -> Outcome | None:
    """How the last try of a container ended, unless it was good or it is ready now."""
    status = container_status(pod, container)
    ended = terminated(pod, container, last=True)
    if not ended or ended.get("exitCode") == 0 or (status.get("ready") and "running" in status.get("state", {})):
        return None
    return outcome(pod, container, last=True)


def _tries(pod: Json, container: str) -> int:
    """Tries that have ended."""
    status = container_status(pod, container)
    return int(status.get("restartCount", 0)) + ("terminated" in status.get("state", {}))


def _message(pods: list[Json], warnings: Mapping[str, str]) -> str:
    for pod in pods:
        if told := stuck_message(pod) or warnings.get(uid(pod), ""):
            return f"pod {name(pod)}: {told}"
    return ""
