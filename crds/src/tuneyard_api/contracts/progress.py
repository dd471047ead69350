"""The progress that a running stage serves at /progress."""

from pydantic import Field

from tuneyard_api.contracts.base import Contract
from tuneyard_api.durations import duration
from tuneyard_api.kinds.finetunejob_status import Progress


class ProgressReport(Contract):
    """One moment of a stage; None: not known."""

    stage: str
    percent: int = Field(default=0, ge=0, le=100)
    step: int | None = None
    steps: int | None = None
    loss: float | None = Field(default=None, description="Of the last steps, in nats per token.")
    validation_loss: float | None = Field(default=None, description="Of the last validation, in nats per token.")
    tokens_per_second: float | None = None
    eta_seconds: int | None = None
    message: str | None = None
    tracking_url: str | None = Field(default=None, description="Of the run in a tracking server.")

    def status(self) -> Progress:
        """The progress as a FineTuneJob's status shows it."""
        return Progress(
            percent=self.percent,
            step=self.step,
            steps=self.steps,
            loss=round(self.loss, 4) if self.loss is not None else None,
            validation_loss=round(self.validation_loss, 4) if self.validation_loss is not None else None,
            tokens_per_second=round(self.tokens_per_second, 1) if self.tokens_per_second is not None else None,
            eta=duration(self.eta_seconds) if self.eta_seconds is not None else None,
            message=self.message,
            tracking_url=self.tracking_url,
        )


def progress_text(progress: Progress) -> str:
    """One line, for example: 43 %, step 17/40, loss 1.2346, 1200 tokens/s, 4m10s left."""
    return ", ".join(filter(None, (f"{progress.percent} %", progress_details(progress))))


def progress_details(progress: Progress) -> str:
    """The same without the percentage, for example beside a bar."""
    parts = [
        f"step {progress.step}/{progress.steps}" if progress.step is not None and progress.steps else "",
        f"loss {progress.loss:.4f}" if progress.loss is not None else "",
        f"validation loss {progress.validation_loss:.4f}" if progress.validation_loss is not None else "",
        f"{progress.tokens_per_second:.0f} tokens/s" if progress.tokens_per_second is not None else "",
        f"{progress.eta} left" if progress.eta is not None else "",
        progress.message or "",
    ]
    return ", ".join(filter(None, parts))
