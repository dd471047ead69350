"""The events of a FineTuneJob: what has changed between two looks."""

from collections.abc import Iterator

from tuneyard_api.durations import duration
from tuneyard_api.names import STAGES
from tuneyard_operator.finetunejob.status import Run, StageRecord
from tuneyard_operator.machinery.conditions import parse_time
from tuneyard_operator.machinery.events import Event

LAST = 90


def events(before: Run, after: Run) -> list[Event]:
    told = [
        event
        for index, stage in enumerate(STAGES)
        for event in _stage(before.stages[stage], after.stages[stage], index * 10, after)
    ]
    return [*_pause(before, after), *told, *_end(after)]


def _pause(before: Run, after: Run) -> Iterator[Event]:
    if after.suspended and not before.suspended:
        yield Event("Suspended", "spec.suspend is true: what runs is stopped, nothing new begins", 0)
    if before.suspended and not after.suspended:
        yield Event("Resumed", "spec.suspend is false: the job goes on where it stopped", 0)


def _stage(before: StageRecord, after: StageRecord, order: int, run: Run) -> Iterator[Event]:
    name = after.name
    if after.state in ("Running", "Succeeded", "Failed") and before.state == "Pending":
        yield Event("StageStarted", f"{name}: started, Job {after.job}", order)
    for pod in after.lost:
        yield Event("StagePreempted", f"{name}: pod {pod} was taken away, another one goes on", order + 3)
    if after.state == "Pending" and after.message and after.message != before.message:
        yield Event("StageWaiting", f"{name}: {after.message}", order + 2, True)
    if after.state != before.state:
        yield from _changed(after, order, run)


def _changed(after: StageRecord, order: int, run: Run) -> Iterator[Event]:
    name = after.name
    if after.state == "Succeeded":
        yield Event("StageCompleted", f"{name}: completed{_took(after)}", order + 7)
        if name == "prepare" and (dataset := run.kept.get("dataset")):
            kept, total = dataset["rowsKept"], dataset["rowsIn"]
            yield Event("DatasetReady", f"{kept} of {total} rows kept, {dataset['tokens']} tokens", order + 8)
    if after.state == "Adopted":
        yield Event("StageAdopted", f"{name}: taken over from an earlier run, {(after.digest or '')[:12]}", order + 7)
    if after.state == "Failed":
        yield Event("StageFailed", f"{name}: {after.message}", order + 7, True)


def _took(record: StageRecord) -> str:
    if not (record.started_at and record.finished_at):
        return ""
    seconds = (parse_time(record.finished_at) - parse_time(record.started_at)).total_seconds()
    return f" in {duration(seconds)}"


def _end(run: Run) -> Iterator[Event]:
    if run.failure:
        yield Event(run.failure.reason, run.failure.message, LAST, True)
    elif run.succeeded:
        recommended = run.kept.get("recommended", {})
        yield Event("Succeeded", f"{recommended.get('format')} is recommended: {recommended.get('uri')}", LAST)
