"""`tuneyard run`: all stages on this machine, by the same code as in the cluster, with progress bars."""

import logging
import os
import shutil
import sys
import threading
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import Progress as Bars

from tuneyard_api import names, reasons
from tuneyard_api.contracts.results import RELEASE_FILE, PublishResult, stage_uri
from tuneyard_api.names import Stage
from tuneyard_api.quantity import cpu_threads
from tuneyard_api.stages import chain
from tuneyard_store.store import Store
from tuneyard_trainer.commands.bars import progress_bars, show
from tuneyard_trainer.commands.jobfile import FineTuneJob
from tuneyard_trainer.runtime.context import StageContext
from tuneyard_trainer.runtime.progress import Progress
from tuneyard_trainer.runtime.stage_runner import Outcome
from tuneyard_trainer.stages import run_stage
from tuneyard_trainer.tracking.secret import variables_of

log = logging.getLogger("tuneyard")


def run_locally(job: FineTuneJob, store: Store, work: Path, stopping: threading.Event) -> int:
    """Runs the chain; returns the exit code of the stage that failed, or 0."""
    console = Console()
    handler = (
        RichHandler(console=console, show_path=False) if console.is_terminal else logging.StreamHandler(sys.stdout)
    )
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler])
    logging.getLogger("botocore").setLevel(logging.WARNING)
    with progress_bars(console) as bars:
        digests, outcome = _run_stages(job, store, work, stopping, bars)
    if not outcome.succeeded:
        _explain(console, outcome, work)
        return outcome.exit_code
    if isinstance(outcome.result, PublishResult):
        release = stage_uri(job.spec.output.uri, digests["publish"], "publish", RELEASE_FILE)
        console.print(summary(outcome.result, release), soft_wrap=True, markup=False, highlight=False)
    return names.EXIT_DONE


def _run_stages(
    job: FineTuneJob, store: Store, work: Path, stopping: threading.Event, bars: Bars
) -> tuple[dict[Stage, str], Outcome]:
    """The digests of the chain, and the outcome of the last stage that ran."""
    digests: dict[Stage, str] = {}
    outcome = Outcome(names.EXIT_UNKNOWN, reasons.STAGE_CRASHED, "No stage has run.")
    threads = cpu_threads(job.spec.resources.limits, job.spec.resources.requests)
    for stage in chain(job.spec):
        bar = bars.add_task(stage.name, total=100, detail="")
        context = StageContext(
            stage=stage.name,
            name=job.name,
            spec=job.spec,
            store=store,
            work=work / stage.name,
            digests=digests,
            threads=threads,
            tracking=variables_of(os.environ),
            progress=Progress(stage.name, partial(show, bars, bar)),
            stopping=stopping,
            log=log,
        )
        context.work.mkdir(parents=True, exist_ok=True)
        outcome = run_stage(context)
        if not outcome.succeeded:
            break
        if outcome.reason == reasons.ADOPTED:
            bars.update(bar, detail="reused")
        shutil.rmtree(context.work)
        digests = context.digests
    return digests, outcome


def _explain(console: Console, outcome: Outcome, work: Path) -> None:
    lines = [f"{outcome.reason}: {outcome.message}", outcome.advice]
    if outcome.exit_code == names.EXIT_TRY_AGAIN:
        lines.append("The same command resumes where this one has stopped.")
    console.print("\n".join(line for line in lines if line), soft_wrap=True, markup=False, highlight=False)


def summary(result: PublishResult, release_uri: str) -> str:
    """The artifacts, and what to type next."""
    lines = [f"{'format':<8}{'MB':>10}{'perplexity':>12}  digest and uri"]
    for artifact in result.artifacts:
        perplexity = "" if artifact.perplexity is None else f"{artifact.perplexity:.4f}"
        lines.append(
            f"{artifact.format:<8}{artifact.size_bytes / 1e6:>10.1f}{perplexity:>12}  {artifact.digest}\n"
            f"{'':<32}{artifact.uri}"
        )
    chosen = result.recommended_artifact
    return "\n".join(
        [
            *lines,
            "",
            f"Recommended: {chosen.format}, {result.recommended.reason}.",
            f"Release: {release_uri}",
            "",
            "Serve it with a ModelServer of this spec.model:",
            f'  {{uri: {chosen.uri}, digest: "{chosen.digest}"}}',
        ]
    )
