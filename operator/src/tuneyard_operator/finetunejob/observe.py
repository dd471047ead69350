"""What the children of a FineTuneJob tell about its stages."""

from collections.abc import Mapping
from functools import cached_property
from typing import Final, NamedTuple

from tuneyard_api import names, reasons
from tuneyard_api.contracts.progress import ProgressReport
from tuneyard_api.contracts.termination import Termination
from tuneyard_api.kinds.finetunejob_status import FineTuneJobStatus, StageState
from tuneyard_api.names import Stage
from tuneyard_operator.finetunejob.children import CONTAINER, Before, counted_before
from tuneyard_operator.finetunejob.failures import EndedEarly, ended_early, is_active, preempted_pods
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
from tuneyard_operator.machinery.plan import Rejection
from tuneyard_operator.pods.creation import explain_denial
from tuneyard_operator.pods.starting import reason_of, stuck_message
from tuneyard_operator.pods.termination import container_status, own_termination, terminated

# The field that sets what the stages' container requests.
RESOURCE_FIELDS: Final = "spec.resources"


class Observed(NamedTuple):
    """A FineTuneJob with its children, and what the API server says of them."""

    job: Json  # the FineTuneJob
    revision: str  # of the run that its spec asks for
    jobs: list[Json]  # batch/v1 Jobs with its label
    pods: list[Json]  # pods with its label
    progress: ProgressReport | None = None  # of the running stage
    since_write: float = 0.0  # seconds since this process wrote the status, or first saw the FineTuneJob
    idle: float = 0.0  # seconds since the last event of the FineTuneJob, its children or their warnings
    warnings: Mapping[str, str] = {}  # why a Job has no pod, by the Job's uid
    rejection: Rejection | None = None  # the API server rejected what was planned
    services: list[Json] = []  # Services with its label


class World(Observed):
    """Everything that a plan is made from."""

    @cached_property
    def status(self) -> FineTuneJobStatus:
        """The status, without fields that another version has written."""
        return FineTuneJobStatus.model_validate(self.job.get("status", {}), extra="ignore")

    @cached_property
    def views(self) -> dict[Stage, "StageView | None"]:
        """The stages that `view_stage` has read."""
        return {}


class StageView(NamedTuple):
    """The Job of one stage and its pods, read together."""

    job: Json
    state: StageState
    termination: Termination | None  # of the pod that succeeded; None where that pod is gone
    ended_early: tuple[EndedEarly, ...]  # in the order in which they were created
    is_decided: bool  # a pod has ended for good, whether or not the Job's status shows it yet
    waiting_for: str  # why a pod does not start
    waiting_reason: str | None  # the same in one word
    short_of_nodes: bool  # some of several pods run, and wait for the others
    is_active: bool  # a pod has not ended
    started_at: str | None
    finished_at: str | None
    before: Before
    failed: int  # pods that the Job was charged
    preempted_pods: tuple[str, ...]
    pod_ip: str | None  # of the pod that serves /progress

    @property
    def causes_event(self) -> bool:
        """Whether there will be an event when the stage goes on."""
        return self.is_active or is_suspended(self.job)


def own_jobs(world: World) -> list[Json]:
    return [job for job in world.jobs if owned_by(job, uid(world.job))]


def run_jobs(world: World) -> list[Json]:
    """Jobs of the run that the spec asks for."""
    return [job for job in own_jobs(world) if label(job, names.LABEL_REVISION) == world.revision]


def stale_jobs(world: World) -> list[Json]:
    """Jobs of an earlier run, or of a deleted FineTuneJob with the same name."""
    earlier = [job for job in own_jobs(world) if label(job, names.LABEL_REVISION) != world.revision]
    return earlier + [job for job in world.jobs if left_by_namesake(job, world.job)]


def orphaned_pods(world: World, stage: Stage) -> list[Json]:
    """Pods of the stage that have not ended although their Job is gone, or belonged to a deleted FineTuneJob."""
    owners = {uid(job) for job in own_jobs(world)}
    return [
        pod
        for pod in world.pods
        if label(pod, names.LABEL_STAGE) == stage
        and not any(owned_by(pod, owner) for owner in owners)
        and pod.get("status", {}).get("phase") not in ("Succeeded", "Failed")
    ]


def find_job(world: World, stage: Stage) -> Json | None:
    """The stage's Job, also while it is being deleted."""
    return next((job for job in run_jobs(world) if label(job, names.LABEL_STAGE) == stage), None)


def view_stage(world: World, stage: Stage) -> StageView | None:
    """None while the stage has no Job, or one that is being deleted."""
    if stage not in world.views:
        world.views[stage] = _read_stage(world, stage)
    return world.views[stage]


def _read_stage(world: World, stage: Stage) -> StageView | None:
    job = find_job(world, stage)
    if job is None or is_deleting(job):
        return None
    pods = _pods_of(world, job)
    stuck = next(filter(None, map(stuck_message, pods)), "") or _denial(world.warnings.get(uid(job), ""))
    short = _short_of_nodes(job, pods, stuck)
    waiting_for = _suspension(job) or short or stuck
    return StageView(
        job=job,
        state=_state(job, pods),
        termination=_success(pods),
        ended_early=ended_early(pods),
        is_decided=_is_decided(pods),
        waiting_for=waiting_for,
        waiting_reason=_waiting_reason(job, waiting_for),
        short_of_nodes=bool(short),
        is_active=any(map(is_active, pods)),
        started_at=job.get("status", {}).get("startTime"),
        finished_at=_finished_at(job, pods),
        before=counted_before(job),
        failed=int(job.get("status", {}).get("failed", 0)),
        preempted_pods=preempted_pods(pods),
        pod_ip=_progress_address(pods),
    )


def _denial(warning: str) -> str:
    """Why the API server takes no pod of a Job, by the last warning about the Job."""
    if not warning.startswith(f"{reasons.FAILED_CREATE}: "):
        return warning
    denial = explain_denial(warning, RESOURCE_FIELDS)
    return f"{denial.reason}: {denial.text}"


def _waiting_reason(job: Json, message: str) -> str | None:
    if is_suspended(job):
        return reasons.QUEUED if label(job, names.LABEL_QUEUE) else reasons.SUSPENDED
    return reason_of(message) if message else None


# A pod that exits with one of these ends its Job, although the Job's status may not show it yet.
FINAL_CODES: Final = (names.EXIT_DONE, names.EXIT_BAD_INPUT, names.EXIT_DOES_NOT_FIT)


def _state(job: Json, pods: list[Json]) -> StageState:
    all_ended = not any(
        map(is_active, pods)
    )  # else the watch of pods lags behind, and the last status is still to come
    if all_ended and (is_condition_true(job, "Complete") or _have_succeeded(job, pods)):
        return "Succeeded"
    if all_ended and is_condition_true(job, "Failed"):
        return "Failed"
    return "Running" if _is_decided(pods) or sum(map(_is_running, pods)) >= pods_wanted(job) else "Pending"


def _pods_of(world: World, job: Json) -> list[Json]:
    return [pod for pod in world.pods if owned_by(pod, uid(job))]


def pods_wanted(job: Json) -> int:
    """How many pods of a Job work together."""
    return int(job["spec"].get("completions", 1))


def _short_of_nodes(job: Json, pods: list[Json], stuck: str) -> str:
    """How many of several pods run while they wait for the others; empty while none runs."""
    running, wanted = sum(map(_is_running, pods)), pods_wanted(job)
    if not 0 < running < wanted or _is_decided(pods):
        return ""
    return f"{reasons.WAITING_FOR_NODES}: {running} of {wanted} pods run" + (f"; {stuck}" if stuck else "")


def _is_decided(pods: list[Json]) -> bool:
    return any(terminated(pod, CONTAINER).get("exitCode") in FINAL_CODES for pod in pods)


def _have_succeeded(job: Json, pods: list[Json]) -> bool:
    """Whether every pod that the Job wants has succeeded. The Job controller says so a second or two later."""
    return len({_index(pod) for pod in _succeeded(pods)}) >= pods_wanted(job)


def is_suspended(job: Json) -> bool:
    """A suspended Job has no pods. Kueue suspends a Job until there is quota, and to take its quota back."""
    return bool(job["spec"].get("suspend"))


def _suspension(job: Json) -> str:
    if not is_suspended(job):
        return ""
    if queue := label(job, names.LABEL_QUEUE):
        return (
            f"waits in queue {queue} until Kueue admits it: kubectl describe localqueue {queue} tells what is free. If "
            "there is no such LocalQueue in this namespace, create it or correct spec.queueName"
        )
    return f"Job {name(job)} was suspended by someone else; it starts when its spec.suspend is false"


def _is_running(pod: Json) -> bool:
    return "running" in container_status(pod, CONTAINER).get("state", {})


def _success(pods: list[Json]) -> Termination | None:
    """The first pod of an Indexed Job reports the result."""
    succeeded = _succeeded(pods)
    return own_termination(min(succeeded, key=_index), CONTAINER) if succeeded else None


def _succeeded(pods: list[Json]) -> list[Json]:
    return [pod for pod in pods if terminated(pod, CONTAINER).get("exitCode") == names.EXIT_DONE]


def _finished_at(job: Json, pods: list[Json]) -> str | None:
    """When the Job ended or, where its status does not show that yet, the last of its pods."""
    at = job.get("status", {}).get("completionTime") or condition(job, "Failed").get("lastTransitionTime")
    if not at and _have_succeeded(job, pods):
        at = max(str(terminated(pod, CONTAINER).get("finishedAt", "")) for pod in _succeeded(pods))
    return str(at) if at else None


def running_pod_ip(world: World) -> str | None:
    """Where the running stage serves its progress."""
    return next(filter(None, (_progress_address(_pods_of(world, job)) for job in run_jobs(world))), None)


def _progress_address(pods: list[Json]) -> str | None:
    """The address of the first pod, which knows the progress of all."""
    running = [pod for pod in pods if _is_running(pod) and not is_deleting(pod) and _index(pod) == 0]
    return str(running[0]["status"].get("podIP", "")) or None if running else None


def _index(pod: Json) -> int:
    """The index of a pod of an Indexed Job; 0 for any other."""
    return int(pod["metadata"].get("annotations", {}).get(names.ANNOTATION_INDEX, 0))
