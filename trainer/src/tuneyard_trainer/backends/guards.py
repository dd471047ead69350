"""What goes wrong with a loss during a run: pure functions of the losses that it has logged (see curve.Log).

The bounds are our own: wide enough that a healthy run never meets them, whose loss falls from where the base model
begins and varies with the rows of a step.
"""

import math
from itertools import groupby
from operator import itemgetter
from statistics import fmean, median
from typing import Final

from tuneyard_api.kinds.finetunejob_status import LossSpike, SpikeRow
from tuneyard_trainer.backends.curve import Log

WINDOW: Final = 10
"""Steps whose mean loss is compared with that at the beginning."""
DIVERGED: Final = 2.0
"""A mean loss of so many times that at the beginning, and at least a nat above it, does not come back."""

RECENT: Final = 20
"""Steps before a spike that say what is usual."""
SETTLED: Final = 5
"""Steps without which nothing is usual yet."""
SPIKE: Final = 1.5
"""A spike is so many times the median of the recent losses, ..."""
DEVIATIONS: Final = 6 * 1.4826
"""... and so many median absolute deviations above it: six standard deviations of a normal distribution."""

SPIKES: Final = 5
"""Spikes whose rows are named in a run: naming them costs a forward pass of the step's rows."""
ROWS: Final = 3
"""Rows that are named of a spike, those with the highest loss first."""

ADVICE: Final = (
    "Lower training.learningRate, or set training.precision: fp32; if the loss was high from the first step on, look "
    "at the data."
)


class Diverged(Exception):
    """The run cannot go on; the weights are those before the step, unless `weights_are_good` is false."""

    def __init__(self, problem: str, *, weights_are_good: bool = True) -> None:
        super().__init__(problem)
        self.weights_are_good = weights_are_good


def divergence(step: int, loss: float, gradient_norm: float, log: Log) -> str | None:
    """Why the update of this step must not be made; None where it may be.

    Args:
        loss: of the rows of the step, in nats per trained token.
        gradient_norm: of all trained parameters, before clipping.
        log: of the steps before.
    """
    if not math.isfinite(loss):
        return f"The loss of step {step} is not a finite number"
    if not math.isfinite(gradient_norm):
        return f"The gradient of step {step} is not finite, though its loss is {loss:.4g}"
    losses = [*_losses(log), loss]
    began = _loss_at_the_beginning(losses, log)
    last = fmean(losses[-WINDOW:])
    if began is not None and len(losses) >= WINDOW and last > max(DIVERGED * began, began + 1):
        return f"The loss has risen from {began:.4g} at the beginning to {last:.4g} in the {WINDOW} steps up to {step}"
    return None


def _loss_at_the_beginning(losses: list[float], log: Log) -> float | None:
    """That of the base model on the held-out rows or on the first step's, whichever is higher: a run may go wrong at
    once. Without held-out rows the mean of the first steps, as the rows of one step may be easy."""
    validated = next((entry["validation_loss"] for entry in log if entry.get("step") == 0), None)
    if validated is not None:
        return max(validated, losses[0])
    return fmean(losses[:WINDOW]) if len(losses) >= 2 * WINDOW else None


def usual_loss(log: Log) -> float | None:
    """The median of the recent losses; None where there are too few."""
    recent = _losses(log)[-RECENT:]
    return median(recent) if len(recent) >= SETTLED else None


def is_spike(loss: float, log: Log) -> bool:
    """Whether the loss of a step stands out from those before it, so that its rows are worth naming."""
    usual = usual_loss(log)
    if usual is None or len(spikes(log)) >= SPIKES:
        return False
    deviation = median(abs(each - usual) for each in _losses(log)[-RECENT:])
    return loss > SPIKE * usual and loss > usual + DEVIATIONS * deviation


def spike_entries(spike: LossSpike) -> list[dict[str, float]]:
    """The spike as entries of a log, from which `spikes` reads it."""
    of_step = {"step": spike.step, "spike_loss": spike.loss, "usual_loss": spike.usual}
    return [{**of_step, "row": row.row, "row_loss": row.loss} for row in spike.rows]


def spikes(log: Log) -> list[LossSpike]:
    found = [entry for entry in log if "spike_loss" in entry]
    grouped = [(step, list(entries)) for step, entries in groupby(found, key=itemgetter("step"))]
    return [
        LossSpike(
            step=int(step),
            loss=entries[0]["spike_loss"],
            usual=entries[0]["usual_loss"],
            rows=[SpikeRow(row=int(entry["row"]), loss=entry["row_loss"]) for entry in entries],
        )
        for step, entries in grouped
    ]


def told(spike: LossSpike) -> str:
    """The spike in a sentence."""
    rows = ", ".join(f"row {row.row} ({row.loss:.4g})" for row in spike.rows)
    return f"The loss of step {spike.step} is {spike.loss:.4g}, where {spike.usual:.4g} is usual; highest: {rows}."


def _losses(log: Log) -> list[float]:
    return [entry["loss"] for entry in log if "loss" in entry]
