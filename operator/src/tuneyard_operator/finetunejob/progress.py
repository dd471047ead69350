"""The progress that a running stage answers, as the status shows it: current, but not written at every step."""

from typing import Final

from tuneyard_api.durations import duration
from tuneyard_api.names import Stage
from tuneyard_operator.machinery.objects import Json

WRITE_SECONDS: Final = 15.0
WRITE_PERCENT: Final = 5


def progress_status(answer: Json | None, stage: Stage, before: Json, since_write: float) -> Json | None:
    """The new progress, or the one before while it has hardly moved."""
    shown: Json | None = before.get("progress") if _runs(before, stage) else None
    if answer is None or answer.get("stage", stage) != stage:
        return shown
    fresh = _wire(answer)
    if shown is None or since_write >= WRITE_SECONDS or abs(fresh["percent"] - shown["percent"]) >= WRITE_PERCENT:
        return fresh
    return shown


def _runs(status: Json, stage: Stage) -> bool:
    """Whether the status is about that stage's run: none of the others' progress is shown for it."""
    return any(each["name"] == stage and each["state"] == "Running" for each in status.get("stages", []))


def _wire(answer: Json) -> Json:
    eta = answer.get("etaSeconds")
    progress = {
        "percent": max(0, min(100, int(answer.get("percent") or 0))),
        "step": answer.get("step"),
        "steps": answer.get("steps"),
        "loss": _rounded(answer.get("loss"), 4),
        "tokensPerSecond": _rounded(answer.get("tokensPerSecond"), 1),
        "eta": duration(eta) if eta is not None else None,
        "message": answer.get("message"),
    }
    return {key: value for key, value in progress.items() if value is not None}


def _rounded(value: float | None, digits: int) -> float | None:
    return round(value, digits) if value is not None else None
