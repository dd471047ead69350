"""The revisions of a ModelServer: one view for each Deployment and its pods, made once for a plan."""

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final, NamedTuple

from tuneyard_api import names, reasons
from tuneyard_operator.machinery.conditions import parse_time
from tuneyard_operator.machinery.objects import (
    Json,
    condition,
    is_condition_true,
    is_deleting,
    label,
    left_by_namesake,
    name,
    owned_by,
    uid,
)
from tuneyard_operator.modelserver.children import ENGINE, FETCH, PROXY
from tuneyard_operator.modelserver.observe import World
from tuneyard_operator.pods.creation import Denial, explain_denial
from tuneyard_operator.pods.starting import lacks_room, reason_of, stuck_message, with_advice
from tuneyard_operator.pods.termination import container_status, terminated, termination
from tuneyard_operator.pods.words import in_user_words

# How often each container may fail before its revision has failed, in the order in which failures are reported.
MAX_FAILURES: Final[Mapping[str, int]] = {FETCH: 2, ENGINE: 3, PROXY: 3}
# The fields that set what the containers request.
RESOURCE_FIELDS: Final = "spec.resources (engine) and spec.containers (fetch, proxy)"

# What is said of an engine that has not answered in time, though nothing has gone wrong.
SLOW: Final = (
    "its engine has not answered yet. See the pod's log (kubectl logs POD -c engine), and raise "
    "rollout.progressDeadlineSeconds if it only needs more time"
)

# The Deployment controller's reason when all replicas were ready. It stays when pods are lost later.
ROLLED_OUT: Final = "NewReplicaSetAvailable"


class Counts(NamedTuple):
    """The pods of a revision."""

    desired: int
    existing: int  # without those that are being deleted
    ready: int
    all_available: bool  # the Deployment's controller has seen its latest spec, and every desired pod is available
    stopping: int = 0  # being deleted, and not ended yet
    without_room: int = 0  # which the scheduler or a quota would take if others used less
    without_room_since: datetime | None = None


class Trouble(NamedTuple):
    """What went wrong last in a revision that is not ready."""

    reason: str
    message: str
    is_final: bool = False  # another try will not help
    is_late: bool = False  # the deadline is missed, although nothing is wrong with the revision: it waits for room
    has_crashed: bool = False  # a container has ended that should run


class Stuck(NamedTuple):
    """Why a pod is not ready, although none of its containers has failed."""

    message: str = ""
    seconds: float = 0.0  # since the pod was scheduled; 0 where it is not

    @property
    def reason(self) -> str:
        return reason_of(self.message)


class Revision(NamedTuple):
    """One revision: its Deployment and its pods."""

    name: str
    deployment: Json
    counts: Counts
    was_ready: bool  # a replica is ready, or all of them were at some time
    is_verified: bool  # a pod has fetched the artifact and verified its digest
    trouble: Trouble | None
    stuck: Stuck
    denial: Denial | None  # why it lacks pods

    @property
    def message(self) -> str:
        """Why a pod is not ready, or an empty string."""
        return f"{self.trouble.reason}: {self.trouble.message}" if self.trouble else self.stuck.message

    @property
    def reason(self) -> str:
        """The same in one word."""
        if self.trouble:
            return self.trouble.reason
        return self.stuck.reason if self.stuck.message else ""


class Revisions(NamedTuple):
    """All revisions of a ModelServer."""

    existing: Mapping[str, Revision]  # by name
    deleting: frozenset[str]  # names of the Deployments that are being deleted
    selected: str | None  # the revision that the Service selects
    pods: Mapping[str, int] = {}  # how many have not ended, by the revision of each, also of deleted Deployments

    def get(self, revision: str | None) -> Revision | None:
        return self.existing.get(revision) if revision is not None else None


def read_revisions(world: World, now: datetime) -> Revisions:
    found: dict[str, Revision] = {}
    for deployment in world.deployments:
        revision = label(deployment, names.LABEL_REVISION)
        if belongs_to_server(deployment, world) and not is_deleting(deployment) and revision not in found:
            found[revision] = _revision(revision, deployment, world, now)
    deleting = frozenset(name(deployment) for deployment in world.deployments if is_deleting(deployment))
    selector: Json = (world.service or {}).get("spec", {}).get("selector") or {}
    pods = Counter(label(pod, names.LABEL_REVISION) for pod in world.pods if _occupies(pod))
    return Revisions(found, deleting, selector.get(names.LABEL_REVISION), pods)


def belongs_to_server(child: Json, world: World) -> bool:
    """Whether it is the ModelServer's. Children of a deleted ModelServer of the same name are reused."""
    return owned_by(child, uid(world.server)) or left_by_namesake(child, world.server)


def _revision(revision: str, deployment: Json, world: World, now: datetime) -> Revision:
    all_pods = [pod for pod in world.pods if label(pod, names.LABEL_REVISION) == revision]
    pods = [pod for pod in all_pods if not is_deleting(pod)]
    denial = _denial(deployment)
    counts = _counts(deployment, pods, denial, stopping=sum(map(_is_stopping, all_pods)))
    stuck = _stuck(pods, world.warnings, denial, now)
    has_completed = condition(deployment, "Progressing").get("reason") == ROLLED_OUT
    return Revision(
        name=revision,
        deployment=deployment,
        counts=counts,
        was_ready=counts.ready > 0 or has_completed,
        is_verified=any(terminated(pod, FETCH).get("exitCode") == 0 for pod in pods),
        trouble=_trouble(deployment, pods, counts, stuck, now),
        stuck=stuck,
        denial=denial,
    )


def _occupies(pod: Json) -> bool:
    """Whether it still has what it requested."""
    return pod.get("status", {}).get("phase") not in ("Succeeded", "Failed")


def _is_stopping(pod: Json) -> bool:
    return is_deleting(pod) and _occupies(pod)


def _denial(deployment: Json) -> Denial | None:
    """Why the API server does not take the pods of a Deployment."""
    failure = condition(deployment, "ReplicaFailure")
    if failure.get("status") != "True":
        return None
    return explain_denial(failure.get("message", ""), RESOURCE_FIELDS)


def _counts(deployment: Json, pods: list[Json], denial: Denial | None, stopping: int) -> Counts:
    status = deployment.get("status", {})
    desired, existing = int(deployment["spec"].get("replicas", 1)), int(status.get("replicas", 0))
    is_observed = int(status.get("observedGeneration", 0)) >= int(deployment["metadata"].get("generation", 0))
    waiting = [condition(pod, "PodScheduled").get("lastTransitionTime") for pod in pods if lacks_room(pod)]
    missing = max(0, desired - existing) if denial and denial.passes else 0
    if missing:
        waiting.append(condition(deployment, "ReplicaFailure").get("lastTransitionTime"))
    since = [parse_time(moment) for moment in waiting if moment]
    return Counts(
        desired=desired,
        existing=existing,
        ready=int(status.get("readyReplicas", 0)),
        all_available=is_observed and int(status.get("availableReplicas", 0)) >= desired,
        stopping=stopping,
        without_room=sum(map(lacks_room, pods)) + missing,
        without_room_since=min(since, default=None),
    )


def _trouble(deployment: Json, pods: list[Json], counts: Counts, stuck: Stuck, now: datetime) -> Trouble | None:
    """What a container ended with; where that may pass, until the deadline."""
    trouble = _container_trouble(pods)
    if trouble and trouble.is_final:
        return trouble
    why = f"{trouble.reason}: {trouble.message}" if trouble else stuck.message
    return _deadline_trouble(deployment, pods, counts, why, now) or trouble


def _container_trouble(pods: list[Json]) -> Trouble | None:
    """How a container last failed, in any of the pods."""
    for container in MAX_FAILURES:
        for pod in pods:
            if trouble := _failure(pod, container):
                return trouble
    return None


def _failure(pod: Json, container: str) -> Trouble | None:
    """How the last run of a container failed; None where it did not, or its pod is ready again."""
    status = container_status(pod, container)
    ended = terminated(pod, container, last=True)
    failed = termination(pod, container, last=True)
    if failed is None or ended.get("exitCode") == 0 or is_condition_true(pod, "Ready"):
        return None
    is_crash = container == ENGINE and failed.reason == reasons.STAGE_CRASHED
    # A store that does not answer is waited for until the deadline.
    may_recover = container == FETCH and ended.get("exitCode") == names.EXIT_TRY_AGAIN
    return Trouble(
        reason=reasons.ENGINE_CRASHED if is_crash else failed.reason,
        message=failed.text,
        is_final=not may_recover and _failures(status) >= MAX_FAILURES[container],
        has_crashed=container != FETCH,
    )


def _failures(status: Json) -> int:
    """How often a container has ended."""
    return int(status.get("restartCount", 0)) + ("terminated" in status.get("state", {}))


def _deadline_trouble(deployment: Json, pods: list[Json], counts: Counts, why: str, now: datetime) -> Trouble | None:
    """The Deployment's controller counts from when it created the pods, and they may have waited for room since."""
    progressing = condition(deployment, "Progressing")
    if (progressing.get("status"), progressing.get("reason")) != ("False", reasons.PROGRESS_DEADLINE_EXCEEDED):
        return None
    deadline = int(deployment["spec"].get("progressDeadlineSeconds", 600))
    waits = counts.without_room > 0
    if not waits and any(0 < _seconds_scheduled(pod, now) < deadline for pod in pods):
        return None
    message = f"not ready within {deadline} s: {why or SLOW}"
    return Trouble(reasons.PROGRESS_DEADLINE_EXCEEDED, message, is_final=not waits, is_late=waits)


def _seconds_scheduled(pod: Json, now: datetime) -> float:
    """How long ago the pod was scheduled; 0 where it is not."""
    scheduled = condition(pod, "PodScheduled")
    at = scheduled.get("lastTransitionTime") if scheduled.get("status") == "True" else None
    return max(0.001, (now - parse_time(at)).total_seconds()) if at else 0.0


def _stuck(pods: Iterable[Json], warnings: Mapping[str, str], denial: Denial | None, now: datetime) -> Stuck:
    """Why one of the pods does not start, or does not exist."""
    if denial:
        return Stuck(f"{denial.reason}: {denial.text}")
    for pod in pods:
        if message := stuck_message(pod) or with_advice(warnings.get(uid(pod), "")):
            # The word comes first, so that a condition can have it as its reason.
            reason, text = reason_of(message), message.removeprefix(f"{reason_of(message)}: ")
            return Stuck(f"{reason}: pod {name(pod)}: {in_user_words(text, pod)}", _seconds_scheduled(pod, now))
    return Stuck()
