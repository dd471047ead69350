"""A FineTuneJob on one screen: pure functions from the object to what is printed."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tuneyard_api.contracts.progress import progress_text
from tuneyard_api.durations import duration
from tuneyard_api.kinds.finetunejob_status import AnswersStatus, FitStatus, Progress, ReplayStatus
from tuneyard_cli import screen
from tuneyard_cli.advice import OUTDATED, UNOBSERVED
from tuneyard_cli.durations import since
from tuneyard_cli.evaluation import by_metric, gate_text, gates_text, values_text
from tuneyard_cli.objects import (
    Json,
    condition,
    current_stage,
    is_condition_true,
    is_observed,
    name,
    namespace,
    reason_and_message,
    stages,
    status,
)

BAR_WIDTH: Final = 20  # columns


def render_job(job: Json, now: datetime) -> RenderableType:
    phase = status(job).get("phase", "Pending")
    title = Text.assemble((f"FineTuneJob {namespace(job)}/{name(job)}", "bold"), "  ", screen.state(phase))
    parts: list[RenderableType] = [title]
    if stages(job):
        parts += [Text(), _stage_table(job, now)]
    if lines := why(job):
        parts += [Text(), *(Text(line) for line in lines)]
    if rows := list(_facts(job)):
        parts += [Text(), screen.facts(rows)]
    return Group(*parts)


def why(job: Json) -> list[str]:
    """Why the job waits or has failed, and what to do about it; empty otherwise."""
    if not status(job):
        return [UNOBSERVED]
    outdated = [] if is_observed(job) else [OUTDATED]
    if is_condition_true(job, "Failed"):
        return [
            *outdated,
            f"Failed: {reason_and_message(condition(job, 'Failed'))}",
            *_logs_of_failed(job),
        ]
    if is_condition_true(job, "Suspended"):
        message = condition(job, "Suspended").get("message", "")
        return [*outdated, f"Suspended: {message}", f"Go on: kubectl tuneyard resume {name(job)} -n {namespace(job)}"]
    stage = current_stage(job)
    if stage is None or stage["state"] != "Pending":
        return outdated
    message = stage.get("message", "")
    waits = f"{stage['name']} waits: {message}" if message else f"{stage['name']} waits for its pod to start."
    return [*outdated, waits]


def _logs_of_failed(job: Json) -> list[str]:
    failed = [stage["name"] for stage in stages(job) if stage["state"] == "Failed"]
    return [f"Its log: kubectl tuneyard logs {name(job)} -n {namespace(job)} --stage {stage}" for stage in failed]


def _stage_table(job: Json, now: datetime) -> Table:
    table = screen.table("STAGE", "STATE", "DURATION", "RESTARTS", "")
    for stage in stages(job):
        restarts = str(stage.get("restarts") or "")
        table.add_row(stage["name"], screen.state(stage["state"]), elapsed(stage, now), restarts, _remark(job, stage))
    return table


def elapsed(stage: Json, now: datetime) -> str:
    """How long the stage ran, or has been running; before it was suspended or restarted, too."""
    started, earlier = stage.get("startedAt"), timedelta(seconds=stage.get("ranSeconds", 0))
    if not started or stage["state"] in ("Pending", "Adopted"):
        return duration(earlier.total_seconds()) if earlier else ""
    finished = stage.get("finishedAt")
    return since(started, (datetime.fromisoformat(finished) if finished else now) + earlier)


def _remark(job: Json, stage: Json) -> RenderableType:
    if stage["state"] == "Adopted":
        return "reused from an earlier run"
    progress = status(job).get("progress")
    if stage["state"] != "Running" or not progress:
        return ""
    grid = Table.grid(padding=(0, 1))
    grid.add_row(ProgressBar(total=100, completed=progress["percent"], width=BAR_WIDTH), progress_of(job))
    return grid


def progress_of(job: Json) -> str:
    """The progress of the running stage in one line; empty where the status has none."""
    progress = status(job).get("progress")
    return progress_text(Progress.model_validate(progress, extra="ignore")) if progress else ""


def _facts(job: Json) -> Iterator[tuple[str, RenderableType]]:
    here = status(job)
    restarts = [restarts_text(here.get("restarts", {})), *_last_failures(job)]
    yield from zip(_labels("Restarts"), filter(None, restarts), strict=False)
    if dataset := here.get("dataset"):
        yield "Dataset", dataset_text(dataset)
        if "replay" in dataset:
            yield "Replay", ReplayStatus.model_validate(dataset["replay"]).text
        if report := dataset.get("reportURI"):
            yield "", report
    if fit := here.get("fit"):
        status_of_fit = FitStatus.model_validate(fit, extra="ignore")
        yield from zip(_labels("GPU fit"), filter(None, (status_of_fit.text, status_of_fit.advice)), strict=False)
    yield from _tracking(here)
    evaluation = here.get("evaluation", {})
    for metric, values in by_metric(evaluation).items():
        yield f"{metric[0].upper()}{metric[1:]}", values_text(values)
    for label, gate in zip(_labels("Gates"), evaluation.get("gates", []), strict=False):
        yield label, Text.assemble(screen.state("passed" if gate["passed"] else "failed"), f"  {gate_text(gate)}")
    if verdict := gates_text(evaluation):
        yield "", verdict
    if recommended := here.get("recommended"):
        yield "Recommended", f"{recommended['format']}: {recommended['reason']}"
        yield "", recommended["uri"]
        yield "", recommended["digest"]
    if report := evaluation.get("reportURI"):
        yield "Report", report


def _tracking(here: Json) -> Iterator[tuple[str, RenderableType]]:
    """Where the metrics of the training are shown; while it runs, its progress has the address."""
    training = here.get("training", {})
    mlflow = training.get("mlflow", {})
    lost = f"{mlflow['lost']} values are not in MLflow: {mlflow.get('message', '')}" if mlflow.get("lost") else ""
    address = mlflow.get("url") or here.get("progress", {}).get("trackingURL")
    yield from zip(_labels("MLflow"), filter(None, (address, lost)), strict=False)
    if events := training.get("tensorboardURI"):
        yield "TensorBoard", events


def _last_failures(job: Json) -> list[str]:
    """Why stages were restarted."""
    if is_condition_true(job, "Failed"):  # `why` has the reason
        return []
    return [
        f"{stage['name']}: {reason_and_message(stage['lastFailure'])}"
        for stage in stages(job)
        if "lastFailure" in stage
    ]


def _labels(first: str) -> Iterator[str]:
    yield first
    while True:
        yield ""


def restarts_text(restarts: Json) -> str:
    words = {"preempted": "preempted, not charged", "failed": "crashed"}
    return "; ".join(f"{restarts[key]} {text}" for key, text in words.items() if restarts.get(key))


def dataset_text(dataset: Json) -> str:
    dropped = ", ".join(f"{count} {reason}" for reason, count in dataset.get("dropped", {}).items() if count)
    kept = f"{dataset['rowsKept']} of {dataset['rowsIn']} rows kept, {dataset['tokens']} tokens"
    answers = AnswersStatus.model_validate(dataset["answers"]).text if "answers" in dataset else ""
    return "; ".join(filter(None, (kept, f"dropped: {dropped}" if dropped else "", answers)))
