"""A FineTuneJob at one look: pure functions from the object to what is printed."""

from collections.abc import Iterator
from datetime import datetime
from typing import Final

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tuneyard_cli import screen
from tuneyard_cli.advice import AGAIN, OUTDATED, UNSEEN, advice_on
from tuneyard_cli.durations import since
from tuneyard_cli.objects import (
    Json,
    condition,
    current_stage,
    is_condition_true,
    is_seen,
    name,
    namespace,
    says,
    stages,
    status,
)

BAR_WIDTH: Final = 20  # columns


def render_job(job: Json, now: datetime) -> RenderableType:
    phase = status(job).get("phase", "Pending")
    title = Text.assemble((f"FineTuneJob {namespace(job)}/{name(job)}", "bold"), "  ", screen.state(phase))
    parts: list[RenderableType] = [title, Text(), _stage_table(job, now)]
    if lines := why(job):
        parts += [Text(), *(Text(line) for line in lines)]
    if rows := list(_facts(job)):
        parts += [Text(), screen.facts(rows)]
    return Group(*parts)


def why(job: Json) -> list[str]:
    """Why it waits or has failed, and what to do; empty while all is well."""
    if not status(job):
        return [UNSEEN]
    outdated = [] if is_seen(job) else [OUTDATED]
    if is_condition_true(job, "Failed"):
        return [*outdated, f"Failed: {says(condition(job, 'Failed'))}", *_log_of_failed(job), AGAIN]
    stage = current_stage(job)
    if stage is None or stage["state"] != "Pending":
        return outdated
    message = stage.get("message", "")
    waits = f"{stage['name']} waits: {message}" if message else f"{stage['name']} waits for its pod to start."
    return [*outdated, waits, *advice_on(message)]


def _log_of_failed(job: Json) -> list[str]:
    ran = [each["name"] for each in stages(job) if each["state"] == "Failed"]
    return [f"Its log: kubectl tuneyard logs {name(job)} -n {namespace(job)} --stage {stage}" for stage in ran]


def _stage_table(job: Json, now: datetime) -> Table:
    table = screen.table("STAGE", "STATE", "TOOK", "RESTARTS", "")
    for stage in stages(job):
        restarts = str(stage.get("restarts") or "")
        table.add_row(stage["name"], screen.state(stage["state"]), took(stage, now), restarts, _remark(job, stage))
    return table


def took(stage: Json, now: datetime) -> str:
    """How long it ran, or runs."""
    began = stage.get("startedAt")
    if not began or stage["state"] in ("Pending", "Adopted"):
        return ""
    ended = stage.get("finishedAt")
    return since(began, datetime.fromisoformat(ended) if ended else now)


def _remark(job: Json, stage: Json) -> RenderableType:
    if stage["state"] == "Adopted":
        return "taken over from an earlier run"
    progress = status(job).get("progress")
    if stage["state"] != "Running" or not progress:
        return ""
    grid = Table.grid(padding=(0, 1))
    grid.add_row(ProgressBar(total=100, completed=progress["percent"], width=BAR_WIDTH), progress_text(progress))
    return grid


def progress_text(progress: Json) -> str:
    """For example 43 %, step 17/40, loss 1.2346, 1200 tokens/s, 4m10s left."""
    parts = [
        f"{progress['percent']} %",
        f"step {progress['step']}/{progress['steps']}" if {"step", "steps"} <= progress.keys() else "",
        f"loss {progress['loss']:.4f}" if "loss" in progress else "",
        f"{progress['tokensPerSecond']:.0f} tokens/s" if "tokensPerSecond" in progress else "",
        f"{progress['eta']} left" if "eta" in progress else "",
        progress.get("message", ""),
    ]
    return ", ".join(filter(None, parts))


def _facts(job: Json) -> Iterator[tuple[str, RenderableType]]:
    here = status(job)
    restarts = [restarts_text(here.get("restarts", {})), *_last_failures(job)]
    yield from zip(_labels("Restarts"), filter(None, restarts), strict=False)
    if dataset := here.get("dataset"):
        yield "Dataset", dataset_text(dataset)
    evaluation = here.get("evaluation", {})
    if measured := evaluation.get("perplexity"):
        yield "Perplexity", perplexity_text(measured)
    for label, gate in zip(_labels("Gates"), evaluation.get("gates", []), strict=False):
        yield label, Text.assemble(screen.state("passed" if gate["passed"] else "failed"), f"  {gate_text(gate)}")
    if recommended := here.get("recommended"):
        yield "Recommended", f"{recommended['format']}: {recommended['reason']}"
        yield "", recommended["uri"]
        yield "", recommended["digest"]
    if report := evaluation.get("reportURI"):
        yield "Report", report


def _last_failures(job: Json) -> list[str]:
    """Of each stage that began again: why, as its last pod said it."""
    if is_condition_true(job, "Failed"):  # told by `why`
        return []
    return [f"{each['name']}: {says(each['lastFailure'])}" for each in stages(job) if "lastFailure" in each]


def _labels(first: str) -> Iterator[str]:
    yield first
    while True:
        yield ""


def restarts_text(restarts: Json) -> str:
    words = {"preempted": "taken away, not charged", "failed": "crashed"}
    return "; ".join(f"{restarts[key]} {text}" for key, text in words.items() if restarts.get(key))


def dataset_text(dataset: Json) -> str:
    dropped = ", ".join(f"{count} {reason}" for reason, count in dataset.get("dropped", {}).items() if count)
    kept = f"{dataset['rowsKept']} of {dataset['rowsIn']} rows kept, {dataset['tokens']} tokens"
    return f"{kept}; dropped: {dropped}" if dropped else kept


def perplexity_text(measured: dict[str, float]) -> str:
    changes = {model: against_base(model, measured) for model in measured}
    shown = (
        f"{model} {value:.4f}" + (f" ({changes[model]})" if changes[model] else "") for model, value in measured.items()
    )
    return ", ".join(shown)


def against_base(model: str, measured: dict[str, float]) -> str:
    """For example -66.7 %; empty for the base itself."""
    base = measured.get("base")
    return f"{100 * (measured[model] / base - 1):+.1f} %" if base and model != "base" else ""


def gate_text(gate: Json) -> str:
    measured = f"{gate['metric']} of {gate['subject']} {gate['value']:.4f}"
    return f"{measured}, against {gate['against']} at most {gate['limit']:.4f}"
