"""The events of a FineTuneJob: what has changed since the last status."""

from collections.abc import Iterator
from typing import Final

from tuneyard_api import reasons
from tuneyard_api.durations import duration
from tuneyard_api.kinds.finetunejob_status import FineTuneJobStatus
from tuneyard_operator.finetunejob.run import Run, StageRecord
from tuneyard_operator.machinery.conditions import parse_time
from tuneyard_operator.machinery.events import Event

# Orders of events of the same second; the events of the stage with index i lie between 10 i and 10 i + 9.
PER_STAGE: Final = 10
LAST: Final = 90


def events(before: Run, after: Run) -> list[Event]:
    stages = [
        event
        for index, record in enumerate(after.stages.values())
        for event in _stage(before.stages[record.name], record, index * PER_STAGE)
    ]
    told = [*_suspension(before, after), *stages, *_dataset(before, after), *_fit(before, after)]
    return [*told, *_training(before, after), *_end(after)]


def _suspension(before: Run, after: Run) -> Iterator[Event]:
    if after.suspended and not before.suspended:
        yield Event(reasons.SUSPENDED, "spec.suspend is true: the running stage is stopped, and no other starts", 0)
    if before.suspended and not after.suspended:
        yield Event(reasons.RESUMED, "spec.suspend is false: the job resumes where it stopped", 0)


def replacement(earlier: FineTuneJobStatus, revision: str) -> list[Event]:
    """What becomes of the stage that ran when the spec changed; told once, before the status is the new run's."""
    if earlier.revision in (None, revision):
        return []
    text = "the spec has changed: its Job is stopped, and a new run begins when its pod has ended"
    running = [stage.name for stage in earlier.stages if stage.state == "Running"]
    return [Event(reasons.REPLACED, f"{stage}: {text}", 0) for stage in running]


def _stage(before: StageRecord, after: StageRecord, order: int) -> Iterator[Event]:
    name = after.name
    if after.state in ("Running", "Succeeded", "Failed") and before.state == "Pending":
        yield Event(reasons.STAGE_STARTED, f"{name}: started, Job {after.job}", order)
    for pod in after.preempted_pods:
        yield Event(reasons.STAGE_PREEMPTED, f"{name}: pod {pod} was preempted, another pod resumes", order + 3)
    if after.state == "Pending" and after.message and after.message != before.message:
        yield Event(reasons.STAGE_WAITING, f"{name}: {after.message}", order + 2, True)
    if after.state != before.state:
        yield from _new_state(after, order + 7)


def _new_state(record: StageRecord, order: int) -> Iterator[Event]:
    name = record.name
    if record.state == "Succeeded":
        yield Event(reasons.STAGE_COMPLETED, f"{name}: completed{_elapsed(record)}", order)
    if record.state == "Adopted":
        digest = (record.digest or "")[:12]
        yield Event(reasons.STAGE_ADOPTED, f"{name}: reused from an earlier run, {digest}", order)
    if record.state == "Failed":
        yield Event(reasons.STAGE_FAILED, f"{name}: {record.message}", order, True)


def _dataset(before: Run, after: Run) -> Iterator[Event]:
    if (dataset := after.dataset) and not before.dataset:
        kept = f"{dataset.rows_kept} of {dataset.rows_in} rows kept, {dataset.tokens} tokens"
        yield Event(reasons.DATASET_READY, kept, 8)
        if (answers := dataset.answers) and answers.trained < answers.given:
            yield Event(reasons.ANSWERS_NOT_TRAINED, f"{answers.text}; see {dataset.report_uri}", 9, True)


def _fit(before: Run, after: Run) -> Iterator[Event]:
    if (fit := after.fit) and not before.fit and fit.verdict == "DoesNotFit":
        yield Event(reasons.UNFIT, " ".join(filter(None, (f"{fit.text}.", fit.advice))), 9, True)


def _training(before: Run, after: Run) -> Iterator[Event]:
    if (training := after.training) and not before.training:
        for rung in training.rungs:
            yield Event(reasons.OUT_OF_MEMORY, f"train: went on with {rung.change}, because: {rung.cause}", 16, True)


def _elapsed(record: StageRecord) -> str:
    if not (record.started_at and record.finished_at):
        return ""
    return f" in {duration(record.elapsed(parse_time(record.finished_at)))}"


def _end(run: Run) -> Iterator[Event]:
    if run.failure:
        yield Event(run.failure.reason, run.failure.message, LAST, True)
    elif run.recommended:
        yield Event(reasons.SUCCEEDED, f"{run.recommended.format} is recommended: {run.recommended.uri}", LAST)
    elif run.is_successful:
        yield Event(reasons.SUCCEEDED, f"published: {run.release_uri}", LAST)
