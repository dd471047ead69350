"""Decides what a FineTuneJob needs next: a pure function of what was observed."""

from datetime import datetime, timedelta
from typing import Final

from pydantic import ValidationError

from tuneyard_api import reasons
from tuneyard_api.durations import duration
from tuneyard_api.kinds.finetunejob import FINE_TUNE_JOB, FineTuneJobSpec
from tuneyard_api.names import LABEL_QUEUE, STAGES, Stage
from tuneyard_api.validation import explain, problems
from tuneyard_operator.finetunejob import events
from tuneyard_operator.finetunejob.children import Before, config_map, stage_job, stage_services
from tuneyard_operator.finetunejob.observe import (
    StageSeen,
    World,
    find_job,
    is_suspended,
    orphaned_pods,
    see_stage,
    stale_jobs,
)
from tuneyard_operator.finetunejob.status import (
    Failure,
    Run,
    StageRecord,
    count_restarts,
    ended,
    read_before,
    with_observed_generation,
    write_status,
)
from tuneyard_operator.machinery.objects import label, name
from tuneyard_operator.machinery.plan import STALLED_SECONDS, Plan, Rejection
from tuneyard_operator.pods.termination import Outcome
from tuneyard_operator.settings import Settings

# Their results are needed; the others are read by the stages themselves, from the store.
SPEAKING: Final[tuple[Stage, ...]] = ("prepare", "publish")
# A Job without a pod may have met a quota, and nothing tells us when that has gone.
NO_POD_SECONDS: Final = 10.0

# A Job that waits longer than that for nothing is made again; it has lost four pods then.
PATIENCE_SECONDS: Final = 60.0


def plan(world: World, settings: Settings, now: datetime) -> Plan:
    """One step towards the end of the chain; the same again when nothing has changed."""
    job = world.job
    if at := ended(job):
        return _over(world, at, now)
    run = read_before(job)
    if invalid := problems(FINE_TUNE_JOB, job):
        run.failure = Failure(reasons.INVALID_SPEC, f"{explain(invalid)}. Change the spec and apply it again.")
        return _finished(world, run, now)
    spec = FineTuneJobSpec.model_validate(job["spec"])
    run.suspended = spec.suspend
    if stale := stale_jobs(world):
        run.stages["prepare"].message = f"waits for the pods of the run before it to end: Job {name(stale[0])}"
        return Plan(write_status(world, run, now), delete=stale)
    return _advance(world, spec, run, settings, now)


def _over(world: World, since: datetime, now: datetime) -> Plan:
    """Nothing is left to do, but to clean up behind an earlier run and to go when it is time."""
    lifetime = world.job["spec"].get("ttlSecondsAfterFinished")
    left = (since + timedelta(seconds=lifetime) - now).total_seconds() if lifetime is not None else None
    if left is not None and left <= 0:
        return Plan(world.job["status"], delete=[world.job])
    return Plan(with_observed_generation(world.job), delete=stale_jobs(world), requeue_after=left)


def _advance(world: World, spec: FineTuneJobSpec, run: Run, settings: Settings, now: datetime) -> Plan:
    for stage in STAGES:
        record = run.stages[stage]
        if record.done:
            continue
        run.current = stage
        seen = see_stage(world, stage)
        if seen is None:
            return _rest(world, run, now) if run.suspended else _begin(world, spec, run, settings, now)
        record.take(seen)
        if lost := _lost_words(record, seen):
            record.rest()
            record.message = f"its pod is gone, and {lost} with it: runs again"
            return Plan(write_status(world, run, now), delete=[seen.job])
        if seen.state == "Succeeded":
            _conclude(run, stage, seen.outcome)
            if run.failure:
                break
            continue
        return _wait(world, spec, run, record, seen, settings, now)
    run.current = run.current if run.failure else None
    return _finished(world, run, now)


def _lost_words(record: StageRecord, seen: StageSeen) -> str:
    """What an ended stage had to say, and nobody heard; an empty string where that can be done without."""
    if seen.state == "Succeeded" and record.name in SPEAKING and not (seen.outcome and seen.outcome.result):
        return "its result"
    # Training is not done again for that: it costs more than the others, which need no GPU.
    if record.cause and record.cause.reason == reasons.REASON_LOST and record.name != "train":
        return "the reason of its failure"
    return ""


def _begin(world: World, spec: FineTuneJobSpec, run: Run, settings: Settings, now: datetime) -> Plan:
    """Creates the current stage's Job."""
    stage = run.current or "prepare"
    record = run.stages[stage]
    record.rest()  # the status may tell of a Job that somebody has deleted
    if in_the_way := _in_the_way(world, stage):
        record.message = f"waits until {in_the_way}"
        return _told(world, run, now)
    if world.rejection:
        return _refused(world, run, world.rejection, now)
    before = Before(count_restarts(world, run)["failed"], record.restarts)
    job = stage_job(world.job, spec, stage, run.digests, settings, before)
    record.job = name(job)
    apply = [config_map(world.job), *stage_services(world.job, spec, stage)]
    return _told(world, run, now)._replace(apply=apply, create=[job], requeue_after=NO_POD_SECONDS)


def _in_the_way(world: World, stage: Stage) -> str:
    """What must be gone before the stage's Job can be created."""
    if going := find_job(world, stage):
        return f"Job {name(going)}, which is being deleted, is gone"
    if stage == "train" and (others := orphaned_pods(world, stage)):
        return f"pod {name(others[0])}, whose Job is gone, has ended"
    return ""


def _rest(world: World, run: Run, now: datetime) -> Plan:
    """Nothing begins; what runs goes away, and comes back from its checkpoint."""
    stage = run.current or "prepare"
    there = find_job(world, stage)
    run.stopping = name(there) if there else None
    run.stages[stage].rest()
    return _told(world, run, now)._replace(delete=[there] if there else [])


def _refused(world: World, run: Run, rejection: Rejection, now: datetime) -> Plan:
    """Nothing was created: either that ends the run, or it is tried again and the stage says why it waits."""
    message = f"the API server refuses {rejection.what}: {rejection.message}"
    if rejection.final:
        run.failure = Failure(reasons.INVALID_SPEC, f"{message}. Change the spec and apply it again.")
        return _finished(world, run, now)
    run.stages[run.current or "prepare"].message = message
    return _told(world, run, now)


def _wait(
    world: World,
    spec: FineTuneJobSpec,
    run: Run,
    record: StageRecord,
    seen: StageSeen,
    settings: Settings,
    now: datetime,
) -> Plan:
    if record.last_failure and record.last_failure.outcome.result:
        run.evaluated(record.last_failure.outcome.result)
    if record.cause:
        run.failure = Failure(record.cause.reason, record.cause.text)
        return _finished(world, run, now)
    if run.suspended and not seen.decided:
        return _rest(world, run, now)
    if why := _why_anew(world, record, seen):
        record.rest()
        record.message = f"its Job {why}: it is made again"
        return _told(world, run, now)._replace(delete=[seen.job])
    run.progress = world.progress
    poll = settings.poll if seen.pod_ip else None
    there = {name(each) for each in world.services}
    lost = [each for each in stage_services(world.job, spec, record.name) if name(each) not in there]
    return _told(world, run, now)._replace(apply=lost, requeue_after=poll if seen.wakes else NO_POD_SECONDS)


def _why_anew(world: World, record: StageRecord, seen: StageSeen) -> str:
    """Why a new Job would have its pod sooner; an empty string where it would not, or where this one is worth more."""
    if seen.state != "Pending" or seen.lives or is_suspended(seen.job):
        return ""
    if _waits_in_vain(record, seen):
        return f"would wait {duration(record.delay)}, although nobody is to blame"
    if seen.started_at and world.silence > record.delay + STALLED_SECONDS:
        return f"has no pod, and nothing was heard of it for {duration(world.silence)}"
    return ""


def _waits_in_vain(record: StageRecord, seen: StageSeen) -> bool:
    """Its Job lets time pass only because pods were taken away. A new one would not; and nothing else would be lost.

    That is its place in a queue, and the logs and the number of the pods that crashed.
    """
    if seen.failed or label(seen.job, LABEL_QUEUE):
        return False
    last = record.last_failure
    return last is not None and last.outcome.reason == reasons.PREEMPTED and record.delay > PATIENCE_SECONDS


def _conclude(run: Run, stage: Stage, outcome: Outcome | None) -> None:
    """Takes over what a stage said at its end."""
    result = (outcome.result if outcome else None) or {}
    take = {"prepare": run.prepared, "evaluate": run.evaluated, "publish": run.published}.get(stage)
    try:
        if take:
            take(result)
    except (KeyError, TypeError, ValidationError) as error:
        advice = "Are the images of operator and trainer of the same version?"
        run.failure = Failure(reasons.STAGE_CRASHED, f"The result of {stage} cannot be read: {error!r}. {advice}")


def _finished(world: World, run: Run, now: datetime) -> Plan:
    run.progress = None
    return _told(world, run, now)


def _told(world: World, run: Run, now: datetime) -> Plan:
    return Plan(write_status(world, run, now), events=events.events(read_before(world.job), run))
