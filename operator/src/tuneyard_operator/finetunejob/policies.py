"""The life cycle of a FineTuneJob: policies that are asked in order, of which the first that applies decides.

docs/lifecycle.md has them as a table. A policy is a pure function of the state. It returns None where it does not
apply, and is only asked where none of the policies before it applies.
"""

import math
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from tuneyard_api import reasons
from tuneyard_api.durations import duration
from tuneyard_api.names import LABEL_QUEUE
from tuneyard_api.validation import explain
from tuneyard_operator.finetunejob.children import Before, config_map, stage_job, stage_services
from tuneyard_operator.finetunejob.events import events, replacement
from tuneyard_operator.finetunejob.failures import backoff
from tuneyard_operator.finetunejob.observe import (
    RESOURCE_FIELDS,
    StageView,
    World,
    find_job,
    is_suspended,
    orphaned_pods,
    stale_jobs,
)
from tuneyard_operator.finetunejob.remedies import with_remedy
from tuneyard_operator.finetunejob.run import Failure, Run, StageRecord
from tuneyard_operator.finetunejob.state import State
from tuneyard_operator.finetunejob.status import with_observed_generation, write_status
from tuneyard_operator.machinery.conditions import parse_time
from tuneyard_operator.machinery.objects import condition, is_condition_true, label, name
from tuneyard_operator.machinery.plan import STALLED_SECONDS, Plan
from tuneyard_operator.pods.creation import explain_denial
from tuneyard_operator.pods.images import NoImageError

# A Job without a pod may be over quota, and no event tells when there is quota again.
NO_POD_SECONDS: Final = 10.0
# A Job whose back-off is longer, only because of preemptions, is recreated: by then it has lost four pods.
BACKOFF_SECONDS: Final = 60.0
# How often a stage runs again because its pod was gone before its result was read.
RERUNS: Final = 3
LOST_WITH_POD: Final = "because its pod is gone, or has no termination message"

Policy = Callable[[State], Plan | None]


def ended(state: State) -> Plan | None:
    """The run has ended: only Jobs of an earlier run, and the FineTuneJob after its lifetime, are deleted."""
    job = state.world.job
    at = _ended_at(state.world)
    if at is None:
        return None
    lifetime = job["spec"].get("ttlSecondsAfterFinished")
    left = (at + timedelta(seconds=lifetime) - state.now).total_seconds() if lifetime is not None else None
    if left is not None and left <= 0:
        return Plan(job["status"], delete=[job])
    return Plan(with_observed_generation(job), delete=stale_jobs(state.world), requeue_after=left)


def invalid_spec(state: State) -> Plan | None:
    """Nothing is created, and nothing is known of the chain."""
    if not state.problems:
        return None
    run = with_remedy(Run({}, failure=Failure(reasons.INVALID_SPEC, explain(state.problems))), state.world.job)
    return Plan(write_status(state.world, run, state.now), events=events(Run({}), run))


def stale(state: State) -> Plan | None:
    """Jobs of an earlier run, or of a deleted FineTuneJob of this name, are deleted before anything is created."""
    jobs = stale_jobs(state.world)
    if not jobs:
        return None
    ends_last = max(jobs, key=lambda job: not (is_condition_true(job, "Complete") or is_condition_true(job, "Failed")))
    message = f"waits for the pods of an earlier run to end: Job {name(ends_last)}"
    run = state.before._replace(suspended=state.spec.suspend)
    if run.current:
        run = run.with_stage(run.current.waits(reasons.WAITING_FOR_EARLIER_RUN, message))
    told = replacement(state.world.status, state.world.revision)
    decided = _plan(state, run)
    return decided._replace(delete=jobs, events=[*told, *decided.events])


def succeeded(state: State) -> Plan | None:
    """Every stage is done."""
    return _plan(state, state.run) if state.run.is_successful else None


def result_lost(state: State) -> Plan | None:
    """The pod was gone before an operator read what the run needs of it: the stage runs again, a few times."""
    record, view = state.current, state.view
    lost = _lost(state.run, record, view)
    if view is None or not lost:
        return None
    if record.reruns >= RERUNS:
        return _lost_for_good(state, view)
    seconds = backoff(record.reruns)
    left = seconds - _seconds_since(view.finished_at, state.now)
    if left > 0:
        message = f"{lost} is lost, {LOST_WITH_POD}: the stage runs again within {duration(seconds)}"
        waiting = record.reset(state.now, message)._replace(ran_seconds=record.ran_seconds)  # its Job is still there
        return _plan(state, state.run.with_stage(waiting))._replace(requeue_after=left)
    message = f"Recreating the Job: {lost} is lost, {LOST_WITH_POD}"
    again = record.reset(state.now, message)._replace(reruns=record.reruns + 1)
    return _plan(state, state.run.with_stage(again))._replace(delete=[view.job])


def failed(state: State) -> Plan | None:
    """The current stage has failed for good."""
    cause = state.current.cause
    failure = state.run.failure or (Failure(cause.reason, cause.text) if cause else None)
    return _plan(state, state.run._replace(failure=failure)) if failure else None


def suspended(state: State) -> Plan | None:
    """The Job of the current stage is deleted, unless its pod has just ended; no other is created."""
    if not state.run.suspended or (state.view and state.view.is_decided):
        return None
    job = find_job(state.world, state.current.name)
    run = state.run.with_stage(state.current.reset(state.now))._replace(stopping=name(job) if job else None)
    return _plan(state, run)._replace(delete=[job] if job else [])


def blocked(state: State) -> Plan | None:
    """A Job that is being deleted, or a pod without a Job that may write checkpoints, must be gone first."""
    if state.view:
        return None
    record = state.current
    if job := find_job(state.world, record.name):
        return _waiting(state, f"waits until Job {name(job)}, which is being deleted, is gone")
    if record.definition.has_checkpoints and (pods := orphaned_pods(state.world, record.name)):
        return _waiting(state, f"waits until pod {name(pods[0])}, whose Job is gone, has ended")
    return None


def rejected(state: State) -> Plan | None:
    """The API server has rejected a child. Where only another spec can change that, the run has failed."""
    rejection = state.world.rejection
    if state.view or rejection is None:
        return None
    message = f"the API server rejects {rejection.what}: {rejection.message}"
    if not rejection.final:
        denial = explain_denial(message, RESOURCE_FIELDS)
        return _waiting(state, denial.text, denial.reason)
    return _plan(state, state.run._replace(failure=Failure(reasons.INVALID_SPEC, message)))


def without_job(state: State) -> Plan | None:
    """The current stage has no Job: it is created."""
    if state.view:
        return None
    record, job, run = state.current, state.world.job, state.world.revision
    before = Before(state.run.restarts.failed, record.restarts, record.reruns, record.out_of_memory)
    try:
        child = stage_job(job, run, state.spec, record.name, state.run.digests, state.settings, before)
    except NoImageError as error:
        return _waiting(state, str(error), reasons.IMAGE_NOT_CONFIGURED)
    return _plan(state, state.run.with_stage(record._replace(job=name(child))))._replace(
        apply=[config_map(job, run), *stage_services(job, run, state.spec, record.name)],
        create=[child],
        requeue_after=NO_POD_SECONDS,
    )


def preempted_often(state: State) -> Plan | None:
    """The Job controller's back-off has grown through preemptions alone: a new Job starts at once.

    A Job keeps its back-off where a new one would lose something: a place in a queue, or the count of crashed pods and
    their logs.
    """
    record, view = state.current, state.view
    if view is None or not _lacks_pod(view) or view.failed or label(view.job, LABEL_QUEUE):
        return None
    last = record.last_failure
    if last is None or last.termination.reason != reasons.PREEMPTED or record.backoff <= BACKOFF_SECONDS:
        return None
    return _recreate(state, view, f"it was preempted and would otherwise wait {duration(record.backoff)}")


def killed_for_memory(state: State) -> Plan | None:
    """A pod of training was killed for its memory: a new Job tells the next pod, which goes on with less.

    The pods of one Job cannot be told what became of those before them.
    """
    record, view = state.current, state.view
    last = record.last_failure
    if view is None or last is None or not state.spec.training.oom_recovery or not record.definition.has_checkpoints:
        return None
    if not _lacks_pod(view) or last.termination.reason != reasons.OOM_KILLED:
        return None
    record = record._replace(out_of_memory=record.out_of_memory + 1)
    message = f"Recreating the Job: pod {last.pod} was killed for its memory, and the next one goes on with less"
    return _plan(state, state.run.with_stage(record.reset(state.now, message)))._replace(delete=[view.job])


def stalled(state: State) -> Plan | None:
    """The Job controller expects a pod that was created and deleted unseen, and starts no other."""
    view, idle = state.view, state.world.idle
    if view is None or not _lacks_pod(view) or not view.started_at:
        return None
    if idle <= state.current.backoff + STALLED_SECONDS:
        return None
    return _recreate(state, view, f"it has no pod, and there was no event for {duration(idle)}")


def running(state: State) -> Plan | None:
    """The current stage has a Job and continues. A Service that somebody has deleted is applied again."""
    view = state.view
    if view is None:
        return None
    existing = {name(service) for service in state.world.services}
    services = stage_services(state.world.job, state.world.revision, state.spec, state.current.name)
    poll = state.settings.poll if view.pod_ip else None
    return _plan(state, state.run)._replace(
        apply=[service for service in services if name(service) not in existing],
        requeue_after=poll if view.causes_event else NO_POD_SECONDS,
    )


POLICIES: Final[tuple[Policy, ...]] = (
    ended,
    invalid_spec,
    stale,
    succeeded,
    result_lost,
    failed,
    suspended,
    blocked,
    rejected,
    without_job,
    preempted_often,
    killed_for_memory,
    stalled,
    running,
)


def _plan(state: State, run: Run) -> Plan:
    """Writes the status of the run, and emits the events that lead to it."""
    run = with_remedy(run, state.world.job)
    return Plan(write_status(state.world, run, state.now), events=events(state.before, run))


def _waiting(state: State, message: str, reason: str = reasons.WAITING) -> Plan:
    return _plan(state, state.run.with_stage(state.current.waits(reason, message)))


def _recreate(state: State, view: StageView, why: str) -> Plan:
    run = state.run.with_stage(state.current.reset(state.now, f"Recreating the Job: {why}"))
    return _plan(state, run)._replace(delete=[view.job])


def _seconds_since(timestamp: str | None, now: datetime) -> float:
    """Not negative, although the API server's clock may be ahead."""
    return max(0.0, (now - parse_time(timestamp)).total_seconds()) if timestamp else math.inf


def _lacks_pod(view: StageView) -> bool:
    return view.state == "Pending" and not view.is_active and not is_suspended(view.job)


def _lost(run: Run, record: StageRecord, view: StageView | None) -> str:
    """What the run needs of the current stage's pod, which is gone; empty where it needs nothing."""
    if view and view.state == "Succeeded" and not run.failure:
        return "its result"
    # A stage on GPUs does not run again to learn why it failed: that costs more than the others.
    if record.cause and record.cause.reason == reasons.REASON_LOST and not record.definition.on_gpu:
        return "the reason of its failure"
    return ""


def _lost_for_good(state: State, view: StageView) -> Plan | None:
    """Of a stage that has failed, the policy `failed` tells what its Job knows."""
    if view.state == "Failed":
        return None
    message = (
        f"{state.current.name} has succeeded {RERUNS + 1} times, and each time its result was lost, {LOST_WITH_POD}. "
        "See what deletes pods in this namespace as soon as they have ended"
    )
    return _plan(state, state.run.failed_at(state.current, reasons.RESULT_LOST, message))


def _ended_at(world: World) -> datetime | None:
    """When the run that the spec asks for ended."""
    job = world.job
    if job.get("status", {}).get("revision") != world.revision:
        return None
    end = next((kind for kind in ("Succeeded", "Failed") if is_condition_true(job, kind)), None)
    return parse_time(condition(job, end)["lastTransitionTime"]) if end else None
