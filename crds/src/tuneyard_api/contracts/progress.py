"""The progress that a running stage serves at /progress."""

from pydantic import Field

from tuneyard_api.contracts.base import Contract


class ProgressReport(Contract):
    """One moment of a stage; None: not known."""

    stage: str
    percent: int = Field(default=0, ge=0, le=100)
    step: int | None = None
    steps: int | None = None
    loss: float | None = Field(default=None, description="Of the last steps, in nats per token.")
    tokens_per_second: float | None = None
    eta_seconds: int | None = None
    message: str | None = None
