"""The progress of a running stage as the status shows it: current, but not written at every step."""

from typing import Final

from tuneyard_api.contracts.progress import ProgressReport
from tuneyard_api.kinds.finetunejob_status import FineTuneJobStatus, Progress
from tuneyard_api.names import Stage

WRITE_SECONDS: Final = 15.0
WRITE_PERCENT: Final = 5


def progress_status(
    report: ProgressReport | None, stage: Stage, before: FineTuneJobStatus, since_write: float, is_running: bool = True
) -> Progress | None:
    """The progress that the stage reports; the one before while it has hardly moved, or while there is no report.

    Args:
        before: the status as it is, which may show the progress of an earlier stage: that is not shown for this one.
        since_write: seconds since the status was written.
        is_running: whether a pod of the stage runs; of one that does not, nobody knows when it will end.
    """
    shown = before.progress if _is_current(before, stage) else None
    if shown and not is_running:
        return shown.model_copy(update={"eta": None, "tokens_per_second": None})
    if report is None or report.stage != stage:
        return shown
    moved = shown is None or abs(report.percent - shown.percent) >= WRITE_PERCENT
    return report.status() if moved or since_write >= WRITE_SECONDS else shown


def _is_current(status: FineTuneJobStatus, stage: Stage) -> bool:
    """Whether the stage is the first one that is not done."""
    unfinished = (entry.name for entry in status.stages if entry.state not in ("Succeeded", "Adopted"))
    return next(unfinished, None) == stage
