"""The course of a training run: pure functions of the losses that it has logged.

A log has an entry for each step, {"step": 3, "loss": 1.2}, and one for each validation,
{"step": 3, "validation_loss": 1.3}; losses are in nats per trained token.
"""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Final

from tuneyard_api.kinds.finetunejob_status import CurvePoint

VALIDATIONS: Final = 20
"""How often a run is validated where the spec does not say it."""
SHARE: Final = 0.2
"""What all validations may cost beside the training; short runs are validated less often."""
FORWARD_SHARE: Final = 1 / 3
"""The cost of a forward pass beside that of a step: the backward pass costs twice as much (arXiv:2001.08361)."""

LOSS_WINDOW: Final = 10
"""Steps whose mean loss is reported."""
NOTICEABLE: Final = 0.01
"""A relative difference of losses that is worth a sentence."""

Log = Sequence[Mapping[str, float]]


def validation_steps(every: int | None, steps: int, batch_tokens: float, validation_tokens: int) -> int:
    """Steps between two validations: those of the spec, or about twenty validations a run.

    Args:
        batch_tokens: of the rows of an average step.
        validation_tokens: of all validation rows.
    """
    if every is not None:
        return every
    affordable = math.ceil(FORWARD_SHARE * validation_tokens / (SHARE * max(batch_tokens, 1)))
    return min(max(math.ceil(steps / VALIDATIONS), affordable, 1), steps)


def mean_loss(log: Log) -> float | None:
    """The mean loss of the last steps. The log is part of a checkpoint, so a resumed run reports the same loss."""
    losses = [entry["loss"] for entry in log if "loss" in entry][-LOSS_WINDOW:]
    return sum(losses) / len(losses) if losses else None


def curve(log: Log) -> list[CurvePoint]:
    """A point for each validation, with the mean training loss of the steps since the one before it."""
    trained = [entry for entry in log if "loss" in entry]
    points: list[CurvePoint] = []
    begin = 0
    for entry in log:
        if "validation_loss" not in entry:
            continue
        step = int(entry["step"])
        end = bisect_right(trained, step, key=itemgetter("step"))
        losses = [item["loss"] for item in trained[begin:end]]
        loss = sum(losses) / len(losses) if losses else None
        accuracy = entry.get("preference_accuracy")
        points.append(
            CurvePoint(step=step, loss=loss, validation_loss=entry["validation_loss"], preference_accuracy=accuracy)
        )
        begin = end
    return points


def best(points: Sequence[CurvePoint]) -> CurvePoint | None:
    """The point with the lowest validation loss, and of equal ones the first."""
    return min(points, key=lambda point: point.validation_loss, default=None)


def has_stalled(points: Sequence[CurvePoint], patience: int | None) -> bool:
    """Whether the last `patience` validations were no better than the best one before them."""
    found = best(points)
    return patience is not None and found is not None and len(points) - 1 - points.index(found) >= patience


def verdict(points: Sequence[CurvePoint]) -> str | None:
    """What the curve says about the length of the run, in a sentence; None of a run that was not validated twice."""
    lowest = best(points)
    if lowest is None or len(points) < 2:
        return None
    first, last = points[0], points[-1]
    if lowest.step == first.step:
        return (
            f"The validation loss never fell below the {first.validation_loss:.4g} of step {first.step}: the training "
            "does not generalize. Look at the data, or lower training.learningRate."
        )
    if last.validation_loss > lowest.validation_loss * (1 + NOTICEABLE):
        return (
            f"Overfitting after step {lowest.step}: the validation loss rose from {lowest.validation_loss:.4g} to "
            f"{last.validation_loss:.4g}. Train fewer steps, set training.earlyStopping, or add data."
        )
    before = points[-2]
    if last.validation_loss < before.validation_loss * (1 - NOTICEABLE):
        return (
            f"Underfitting: the validation loss still fell at the last step, from {before.validation_loss:.4g} to "
            f"{last.validation_loss:.4g}. Train more epochs, or raise training.learningRate or training.lora.rank."
        )
    return f"The validation loss has settled at {last.validation_loss:.4g}."
