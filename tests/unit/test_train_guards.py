"""What goes wrong with a loss: no number, a loss that rises for good, and a step that stands out."""

import math
from typing import Any

import pytest

from tuneyard_api.kinds.finetunejob_status import LossSpike, SpikeRow
from tuneyard_trainer.backends.guards import SPIKES, divergence, is_spike, spike_entries, spikes, told, usual_loss

Log = list[dict[str, Any]]


def log_of(*losses: float) -> Log:
    return [{"step": step, "loss": loss} for step, loss in enumerate(losses, start=1)]


def falling(steps: int) -> list[float]:
    return [3 * 0.97**step * (1.1 if step % 2 else 0.9) for step in range(steps)]


@pytest.mark.parametrize(
    ("loss", "norm", "says"),
    [
        (math.nan, 1.0, "The loss of step 4 is not a finite number"),
        (math.inf, 1.0, "The loss of step 4 is not a finite number"),
        (2.5, math.nan, "The gradient of step 4 is not finite, though its loss is 2.5"),
        (2.5, math.inf, "The gradient of step 4 is not finite, though its loss is 2.5"),
        (2.5, 1e6, None),
    ],
)
def test_numbers_that_are_none(loss: float, norm: float, says: str | None) -> None:
    assert divergence(4, loss, norm, log_of(3, 2, 2)) == says


@pytest.mark.parametrize(
    ("losses", "diverges"),
    [
        pytest.param([2.0] * 10 + [4.5] * 10, True, id="twice the first steps"),
        pytest.param([2.0] * 10 + [3.9] * 10, False, id="less than twice"),
        pytest.param([0.1] * 10 + [0.9] * 10, False, id="small losses vary"),
        pytest.param([0.1] * 10 + [1.2] * 10, True, id="a nat above"),
        pytest.param([2.0] * 10 + [9.0] * 9, False, id="too few steps"),
        pytest.param([2.0] * 10 + [9.0] + [1.0] * 9, False, id="one step"),
        pytest.param([12.0] * 10 + falling(50) + [9.0] * 9, False, id="below where it began"),
    ],
)
def test_a_loss_that_rises_for_good(losses: list[float], diverges: bool) -> None:
    said = divergence(len(losses), losses[-1], 1.0, log_of(*losses[:-1]))
    assert (said is not None) == diverges
    if said:
        assert said.startswith(f"The loss has risen from {losses[0]:.4g}")


@pytest.mark.parametrize(
    ("validated", "losses", "diverges"),
    [
        pytest.param(2.0, [2.1] + [50.0] * 9, True, id="at once"),
        pytest.param(2.0, [2.1] + [50.0] * 8, False, id="too few steps"),
        pytest.param(2.0, [0.4] + [2.2] * 30, False, id="an easy first step"),
        pytest.param(1.0, [4.0] * 30, False, id="other rows than the held-out ones"),
    ],
)
def test_held_out_rows_tell_the_loss_at_the_beginning(validated: float, losses: list[float], diverges: bool) -> None:
    log = [{"step": 0, "validation_loss": validated}, *log_of(*losses[:-1])]
    assert (divergence(len(losses), losses[-1], 1.0, log) is not None) == diverges


def test_a_healthy_run_has_neither() -> None:
    losses = falling(200)
    for step, loss in enumerate(losses):
        before = log_of(*losses[:step])
        assert divergence(step + 1, loss, 1.0, before) is None
        assert not is_spike(loss, before)


@pytest.mark.parametrize(
    ("before", "loss", "stands_out"),
    [
        ([2.0, 1.9, 2.1, 2.0, 1.9], 4.0, True),
        ([2.0, 1.9, 2.1, 2.0], 40.0, False),
        ([2.0, 1.9, 2.1, 2.0, 1.9], 2.9, False),
        ([1.0, 4.0, 1.5, 3.0, 2.0], 4.5, False),
        ([9.0] * 20 + [1.0] * 20, 2.0, True),
    ],
)
def test_a_spike_stands_out_from_the_recent_steps(before: list[float], loss: float, stands_out: bool) -> None:
    assert is_spike(loss, log_of(*before)) == stands_out


def test_spikes_are_part_of_the_log() -> None:
    log = log_of(2.0, 1.9, 2.1, 2.0, 1.9)
    made = [
        LossSpike(step=step, loss=9.0, usual=2.0, rows=[SpikeRow(row=3, loss=20.0), SpikeRow(row=8, loss=2.0)])
        for step in range(6, 6 + SPIKES)
    ]
    for spike in made:
        assert is_spike(9.0, log)
        log += spike_entries(spike)
    assert spikes(log) == made
    assert not is_spike(9.0, log), "only the first spikes cost a forward pass"
    assert usual_loss(log) == 2.0, "a spike's entries are no losses of steps"
    assert told(made[0]) == "The loss of step 6 is 9, where 2 is usual; highest: row 3 (20), row 8 (2)."
