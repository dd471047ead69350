"""Writes the status of a FineTuneJob."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from tuneyard_api import reasons
from tuneyard_api.base import Model
from tuneyard_api.kinds.finetunejob_status import Phase, Progress
from tuneyard_operator.finetunejob.observe import World
from tuneyard_operator.finetunejob.progress import progress_status
from tuneyard_operator.finetunejob.run import Run, StageRecord
from tuneyard_operator.machinery.conditions import Condition, conditions
from tuneyard_operator.machinery.objects import Json, generation


def write_status(world: World, run: Run, now: datetime) -> Json:
    """The whole status of a run."""
    before = world.job.get("status", {}).get("conditions", [])
    observed = generation(world.job)
    status = {
        "observedGeneration": observed,
        "revision": world.revision,
        "phase": phase(run),
        "reason": _reason(run),
        "conditions": conditions(_conditions(run), before, observed, now),
        "stages": [record.status() for record in run.stages.values()],
        "restarts": run.restarts,
        "dataset": run.dataset,
        "fit": run.fit,
        "training": run.training,
        "evaluation": run.evaluation,
        "artifacts": run.artifacts,
        "recommended": run.recommended,
        "releaseURI": run.release_uri,
        "progress": run.progress or _progress(world, run),
    }
    return {field: _wire(value) for field, value in status.items() if value is not None}


def with_observed_generation(job: Json) -> Json:
    """The status of a run that has ended, after a change of the spec that starts no other run."""
    status: Json = job["status"]
    observed = {"observedGeneration": generation(job)}
    return {**status, **observed, "conditions": [condition | observed for condition in status["conditions"]]}


def _wire(value: Any) -> Any:
    if isinstance(value, Model):
        return value.wire()
    return [_wire(item) for item in value] if isinstance(value, list | tuple) else value


def _progress(world: World, run: Run) -> Progress | None:
    """The progress of the current stage. It stays while the stage is suspended or waits for another pod."""
    current = run.current
    if current is None or run.failure:
        return None
    is_running = current.state != "Pending"
    report = world.progress if is_running else None
    return progress_status(report, current.name, world.status, world.since_write, is_running)


def _reason(run: Run) -> str | None:
    """One word for why nothing runs, or why it has failed."""
    if run.failure:
        return run.failure.reason
    current = run.current
    if current is None:
        return None
    if run.suspended:
        return reasons.SUSPENDED
    return (current.reason or current.state) if current.state == "Pending" else None


def phase(run: Run) -> Phase:
    if run.failure:
        return "Failed"
    current = run.current
    if current is None:
        return "Succeeded"
    if run.suspended:
        return "Suspended"
    is_first = current is next(iter(run.stages.values()))
    return "Pending" if is_first and current.state == "Pending" else current.definition.phase


def _conditions(run: Run) -> Iterator[Condition]:
    """The conditions that apply; a stage has none before it is reached."""
    current = run.current
    for record in run.stages.values():
        if record.is_done or record is current:
            yield _stage_condition(run, record)
    if run.failure:
        yield Condition("Succeeded", False, run.failure.reason, run.failure.message)
        yield Condition("Failed", True, run.failure.reason, run.failure.message)
    elif current is None:
        yield Condition("Succeeded", True, reasons.COMPLETED, _outcome(run))
    else:
        if run.suspended:
            yield Condition("Suspended", True, reasons.SUSPENDED, _suspended_message(run))
        yield Condition("Succeeded", False, phase(run), current.message or "")


def _stage_condition(run: Run, record: StageRecord) -> Condition:
    kind = record.definition.condition
    if record.is_done:
        is_reused = record.state == "Adopted" or record.reason == reasons.ADOPTED
        return Condition(kind, True, reasons.ADOPTED if is_reused else reasons.COMPLETED)
    if run.failure:
        return Condition(kind, False, run.failure.reason, run.failure.message)
    reason = record.reason if record.reason == reasons.WAITING_FOR_NODES else record.state
    return Condition(kind, False, reason, record.message or "")


def _outcome(run: Run) -> str:
    return f"recommended: {run.recommended.uri}" if run.recommended else f"published: {run.release_uri}"


def _suspended_message(run: Run) -> str:
    stopping = f"Job {run.stopping} is being stopped; its pod writes a checkpoint first. " if run.stopping else ""
    return f"{stopping}Set spec.suspend to false to resume."
