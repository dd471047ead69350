"""`tuneyard run`: the stages in order on this machine, with the same code as in the cluster, and bars."""

import logging
import shutil
import sys
import threading
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from tuneyard_api import names, reasons
from tuneyard_store.store import Store
from tuneyard_trainer.commands.jobfile import FineTuneJob, cpu_threads
from tuneyard_trainer.runtime.progress import Progress, Snapshot
from tuneyard_trainer.runtime.stage_runner import Json, Outcome, StageContext, run_stage

log = logging.getLogger("tuneyard")


def run_locally(job: FineTuneJob, store: Store, work: Path, stopping: threading.Event) -> int:
    """Runs the chain; returns the exit code of the stage that failed, or 0."""
    console = Console()
    handler = (
        RichHandler(console=console, show_path=False) if console.is_terminal else logging.StreamHandler(sys.stdout)
    )
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler])
    logging.getLogger("botocore").setLevel(logging.WARNING)
    with Bars(
        TextColumn("{task.description:<9}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[detail]}"),
        console=console,
        disable=not console.is_terminal,
    ) as bars:
        outcome = _run_stages(job, store, work, stopping, bars)
    if not outcome.succeeded:
        _explain(console, outcome, work)
        return outcome.exit_code
    console.print(summary(job.name, outcome.result or {}), soft_wrap=True, markup=False, highlight=False)
    return names.EXIT_DONE


def _run_stages(job: FineTuneJob, store: Store, work: Path, stopping: threading.Event, bars: Bars) -> Outcome:
    digests: dict[str, str] = {}
    outcome = Outcome(names.EXIT_UNKNOWN, reasons.STAGE_CRASHED, "No stage has run.")
    for stage in names.STAGES:
        bar = bars.add_task(stage, total=100, detail="")
        context = StageContext(
            stage=stage,
            name=job.name,
            spec=job.spec,
            store=store,
            work=work / stage,
            digests=digests,
            threads=cpu_threads(job.spec),
            progress=Progress(stage, partial(_show, bars, bar)),
            stopping=stopping,
            log=log,
        )
        context.work.mkdir(parents=True, exist_ok=True)
        outcome = run_stage(context)
        if not outcome.succeeded:
            return outcome
        if outcome.reason == reasons.ADOPTED:
            bars.update(bar, detail="taken over")
        shutil.rmtree(context.work)
        digests = context.digests
    return outcome


def _show(bars: Bars, bar: TaskID, now: Snapshot) -> None:
    parts = [now.message or ""]
    if now.step is not None and now.steps:
        parts.append(f"step {now.step}/{now.steps}")
    if now.loss is not None:
        parts.append(f"loss {now.loss:.4f}")
    if now.tokens_per_second is not None:
        parts.append(f"{now.tokens_per_second:.0f} tokens/s")
    if now.eta_seconds is not None:
        parts.append(f"{now.eta_seconds // 60}m{now.eta_seconds % 60:02d}s left")
    bars.update(bar, completed=now.percent, detail="  ".join(part for part in parts if part))


def _explain(console: Console, outcome: Outcome, work: Path) -> None:
    lines = [f"{outcome.reason}: {outcome.message}", outcome.advice]
    if outcome.exit_code == names.EXIT_TRY_AGAIN:
        lines.append("The same command goes on from where this one stopped.")
    console.print("\n".join(line for line in lines if line), soft_wrap=True, markup=False, highlight=False)


def summary(name: str, result: Json) -> str:
    """The artifacts, and what to type next."""
    head = f"{'format':<8}{'MB':>10}{'perplexity':>12}  digest and uri"
    lines = [head]
    for each in result["artifacts"]:
        perplexity = "" if each["perplexity"] is None else f"{each['perplexity']:.4f}"
        lines.append(f"{each['format']:<8}{each['sizeBytes'] / 1e6:>10.1f}{perplexity:>12}  {each['digest']}")
        lines.append(f"{'':<32}{each['uri']}")
    chosen = result["recommended"]
    return "\n".join(
        [
            *lines,
            "",
            f"Recommended: {chosen['format']}, {chosen['reason']}.",
            f"Release: {result['releaseURI']}",
            "",
            "Serve it with a ModelServer of this spec.model:",
            f'  {{uri: {chosen["uri"]}, digest: "{chosen["digest"]}"}}',
        ]
    )
