"""Over-trained runs: what is kept is the best step that there would have been, and most of the others are saved."""

import random
from pathlib import Path
from typing import Any, Final

import pytest

from integration.runs import Run
from tuneyard_api.contracts.requests import TrainOutcome
from tuneyard_trainer.data.columns import INPUT_IDS, LABELS
from tuneyard_trainer.data.shards import ShardWriter

STEPS: Final = 160
EVERY: Final = 8
"""Steps from one validation to the next: 20 in a run, as where evalSteps is not set."""
VALIDATION_ROWS: Final = 40
OVER_TRAINED: Final[dict[str, Any]] = {
    "method": "full", "learningRate": 3e-3, "scheduler": "constant", "warmupRatio": 0.0, "precision": "fp32", "lora": {}
}  # fmt: skip
PATIENCE: Final = 3
WORSE: Final = 1.005
SAVED: Final = 0.4


def write_rows(folder: Path, seed: int) -> Path:
    """Few rows of a language in which each of 32 tokens is followed by one of two: learned, then known by heart."""
    chance = random.Random(seed)  # noqa: S311
    followers = [chance.sample(range(32), 2) for _ in range(32)]
    for split, count in (("train", 16), ("validation", VALIDATION_ROWS)):
        writer = ShardWriter(folder / split)
        for _ in range(count):
            ids = [chance.randrange(32)]
            while len(ids) < 24:
                ids.append(chance.choice(followers[ids[-1]]))
            writer.add({INPUT_IDS: ids, LABELS: ids})
        writer.finish()
    return folder


def train(folder: Path, model: Path, rows: Path, **training: Any) -> TrainOutcome:
    run = Run(folder, model, rows, STEPS, **OVER_TRAINED, **training)
    run.request = run.request.model_copy(update={"validation_steps": EVERY, "validation_count": VALIDATION_ROWS})
    return run.train_here()


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 11))])
def test_early_stopping_keeps_the_best_step(tmp_path: Path, model: Path, seed: int) -> None:
    rows = write_rows(tmp_path / "rows", seed)
    whole = train(tmp_path / "whole", model, rows, seed=seed)
    losses = {point.step: point.validation_loss for point in whole.curve}
    best = min(losses.values())
    assert losses[whole.steps] > 1.2 * best, "it is over-trained"
    stopped = train(tmp_path / "stopped", model, rows, seed=seed, earlyStopping={"patience": PATIENCE})
    assert stopped.stopped_early
    kept = next(point.validation_loss for point in stopped.curve if point.step == stopped.kept_step)
    print(f"seed {seed}: best {best:.4f}, at the end {losses[whole.steps]:.4f}; kept {kept:.4f}, {stopped.steps} steps")
    assert kept <= WORSE * best
    assert stopped.steps <= (1 - SAVED) * whole.steps
