"""What the children of a FineTuneJob say about its stages."""

from collections.abc import Mapping
from typing import Final, NamedTuple

from tuneyard_api import names, reasons
from tuneyard_api.kinds.finetunejob_status import StageState
from tuneyard_api.names import Stage
from tuneyard_api.runs import revision
from tuneyard_operator.finetunejob.children import CONTAINER, Before, counted_before, job_name
from tuneyard_operator.finetunejob.failures import EndedEarly, ended_early, lives, lost
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
from tuneyard_operator.pods.termination import Outcome, container_status, outcome, stuck_message, terminated


class World(NamedTuple):
    """All that a plan is made from."""

    job: Json  # the FineTuneJob
    jobs: list[Json]  # batch/v1 Jobs with its label
    pods: list[Json]  # pods with its label
    progress: Json | None = None  # what the running stage answered
    since_write: float = 0.0  # seconds since this process last wrote the status, or first looked
    silence: float = 0.0  # seconds since it heard anything new of the job, its children or their warnings
    warnings: Mapping[str, str] = {}  # why a Job has no pod, by the Job's uid
    rejection: Rejection | None = None  # the API server did not take what was planned
    services: list[Json] = []  # Services with its label


class StageSeen(NamedTuple):
    """One stage's Job and pods, read together."""

    job: Json
    state: StageState
    outcome: Outcome | None  # of a pod that succeeded
    ended_early: tuple[EndedEarly, ...]  # the last one last
    decided: bool  # a pod has come to a final end, whether or not the Job says so yet
    waiting_for: str  # why the pod does not start
    short_of_nodes: bool  # of several pods some work, or rather wait for the others
    lives: bool  # one of them has not ended
    started_at: str | None
    finished_at: str | None
    before: Before
    failed: int  # pods that it was charged
    lost: tuple[str, ...]  # pods that were taken away
    pod_ip: str | None  # where it answers /progress

    @property
    def wakes(self) -> bool:
        """An event will come when it goes on."""
        return self.lives or is_suspended(self.job)


def own_jobs(world: World) -> list[Json]:
    return [each for each in world.jobs if owned_by(each, uid(world.job))]


def run_jobs(world: World) -> list[Json]:
    """Jobs of the run that the spec asks for."""
    wanted = revision(world.job)
    return [each for each in own_jobs(world) if label(each, names.LABEL_REVISION) == wanted]


def stale_jobs(world: World) -> list[Json]:
    """Jobs of an earlier run, or of a FineTuneJob of this name that is gone."""
    wanted = revision(world.job)
    earlier = [each for each in own_jobs(world) if label(each, names.LABEL_REVISION) != wanted]
    return earlier + [each for each in world.jobs if left_by_namesake(each, world.job)]


def orphaned_pods(world: World, stage: Stage) -> list[Json]:
    """Pods of that stage that still run although their Job is gone, or its FineTuneJob was another of this name."""
    ours = {uid(each) for each in own_jobs(world)}
    return [
        pod
        for pod in world.pods
        if label(pod, names.LABEL_STAGE) == stage
        and not any(owned_by(pod, each) for each in ours)
        and pod.get("status", {}).get("phase") not in ("Succeeded", "Failed")
    ]


def find_job(world: World, stage: Stage) -> Json | None:
    wanted = job_name(world.job, stage)
    return next((each for each in own_jobs(world) if name(each) == wanted), None)


def see_stage(world: World, stage: Stage) -> StageSeen | None:
    """None while the stage has no Job, or one that is going away."""
    job = find_job(world, stage)
    if job is None or is_deleting(job):
        return None
    pods = _pods_of(world, job)
    stuck = next(filter(None, map(stuck_message, pods)), "") or world.warnings.get(uid(job), "")
    short = _short_of_nodes(job, pods, stuck)
    return StageSeen(
        job=job,
        state=_state(job, pods),
        outcome=_success(pods),
        ended_early=ended_early(pods),
        decided=_is_decided(pods),
        waiting_for=_suspended_by(job) or short or stuck,
        short_of_nodes=bool(short),
        lives=any(map(lives, pods)),
        started_at=job.get("status", {}).get("startTime"),
        finished_at=_finished_at(job),
        before=counted_before(job),
        failed=int(job.get("status", {}).get("failed", 0)),
        lost=lost(pods),
        pod_ip=_answering(pods),
    )


# With these the Job has come to its end; its controller just has not said so yet.
FINAL_CODES: Final = (names.EXIT_DONE, names.EXIT_BAD_INPUT, names.EXIT_DOES_NOT_FIT)


def _state(job: Json, pods: list[Json]) -> StageState:
    heard = not any(map(lives, pods))  # else the Job is ahead of its pod, whose last words are on their way to us
    if heard and is_condition_true(job, "Complete"):
        return "Succeeded"
    if heard and is_condition_true(job, "Failed"):
        return "Failed"
    return "Running" if _is_decided(pods) or sum(map(_runs, pods)) >= pods_wanted(job) else "Pending"


def _pods_of(world: World, job: Json) -> list[Json]:
    return [pod for pod in world.pods if owned_by(pod, uid(job))]


def pods_wanted(job: Json) -> int:
    """How many pods of a Job work together."""
    return int(job["spec"].get("completions", 1))


def _short_of_nodes(job: Json, pods: list[Json], stuck: str) -> str:
    """Some of several pods run, and can do nothing without the others; where none runs, there is no more to say."""
    running, wanted = sum(map(_runs, pods)), pods_wanted(job)
    if not 0 < running < wanted or _is_decided(pods):
        return ""
    return f"{reasons.WAITING_FOR_NODES}: {running} of {wanted} pods run" + (f"; {stuck}" if stuck else "")


def _is_decided(pods: list[Json]) -> bool:
    return any(terminated(pod, CONTAINER).get("exitCode") in FINAL_CODES for pod in pods)


def is_suspended(job: Json) -> bool:
    """A suspended Job has no pods: Kueue's way to let it wait for quota, or to take its quota away."""
    return bool(job["spec"].get("suspend"))


def _suspended_by(job: Json) -> str:
    if not is_suspended(job):
        return ""
    if queue := label(job, names.LABEL_QUEUE):
        return f"waits in queue {queue} until Kueue admits it"
    return f"Job {name(job)} was suspended by someone else, and goes on when its spec.suspend is false"


def _runs(pod: Json) -> bool:
    return "running" in container_status(pod, CONTAINER).get("state", {})


def _success(pods: list[Json]) -> Outcome | None:
    """Of several pods the first one has the result."""
    succeeded = [pod for pod in pods if terminated(pod, CONTAINER).get("exitCode") == names.EXIT_DONE]
    return outcome(min(succeeded, key=_number), CONTAINER) if succeeded else None


def _finished_at(job: Json) -> str | None:
    at = job.get("status", {}).get("completionTime") or condition(job, "Failed").get("lastTransitionTime")
    return str(at) if at else None


def running_pod_ip(world: World) -> str | None:
    """Where the running stage can be asked for its progress."""
    return next(filter(None, (_answering(_pods_of(world, job)) for job in run_jobs(world))), None)


def _answering(pods: list[Json]) -> str | None:
    """The address of the pod that knows the progress: of several it is the first."""
    running = [pod for pod in pods if _runs(pod) and not is_deleting(pod) and _number(pod) == 0]
    return str(running[0]["status"].get("podIP", "")) or None if running else None


def _number(pod: Json) -> int:
    """Which one of several it is."""
    return int(pod["metadata"].get("annotations", {}).get(names.ANNOTATION_INDEX, 0))
