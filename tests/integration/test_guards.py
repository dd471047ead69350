"""A run that goes wrong stops before it destroys the weights, and says which rows a loss stood out for."""

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

from integration.conftest import ContextFactory
from integration.runs import Run
from tuneyard_api import reasons
from tuneyard_api.kinds.finetunejob_status import TrainingStatus
from tuneyard_store.artifact import fetch_directory
from tuneyard_trainer.backends.peft.batching import Batching
from tuneyard_trainer.data.columns import IGNORED, INPUT_IDS, LABELS
from tuneyard_trainer.data.shards import ShardWriter
from tuneyard_trainer.stages import run_stage

WILD: dict[str, Any] = {
    "method": "full",
    "learningRate": 1.0,
    "scheduler": "constant",
    "warmupRatio": 0.0,
    "precision": "fp32",
    "lora": {"rank": 16, "alpha": 32, "dropout": 0.0},
}


QUICK: dict[str, Any] = {"method": "full", "learningRate": 3e-3, "precision": "fp32", "lora": WILD["lora"]}


@pytest.mark.parametrize("keep", ["best", "last"])
def test_a_run_that_diverges_keeps_its_last_good_step(tmp_path: Path, model: Path, rows: Path, keep: str) -> None:
    run = Run(tmp_path / "run", model, rows, 60, keep=keep, **WILD)
    outcome = run.train_here()
    assert not outcome.finished
    assert outcome.diverged
    assert outcome.steps < 60
    lowest = min(outcome.curve, key=lambda point: point.validation_loss)
    assert outcome.kept_step == (lowest.step if keep == "best" else outcome.steps)
    assert all(torch.isfinite(tensor).all() for tensor in load(run.weights).values())


def test_weights_are_kept_when_a_loss_is_no_number(
    tmp_path: Path, model: Path, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fifth step's loss is not a number: the weights are those of four steps, to the bit."""
    four = Run(tmp_path / "four", model, rows, 8, keep="last", scheduler="constant")
    four.train_here()
    expected = Run(tmp_path / "expected", model, rows, 4, keep="last", scheduler="constant")
    expected.train_here()

    calls = 0
    loss = Batching.loss

    def broken(*args: Any) -> torch.Tensor:
        nonlocal calls
        calls += torch.is_grad_enabled()
        return loss(*args) * (math.nan if torch.is_grad_enabled() and calls > 4 * 2 else 1)

    monkeypatch.setattr(Batching, "loss", broken)
    run = Run(tmp_path / "run", model, rows, 8, keep="last", scheduler="constant")
    outcome = run.train_here()
    assert outcome.diverged == "The loss of step 5 is not a finite number"
    assert (outcome.steps, outcome.kept_step) == (4, 4)
    assert run.weights == expected.weights != four.weights


def test_the_stage_says_where_the_last_good_step_is(new_context: ContextFactory, tmp_path: Path) -> None:
    context = new_context("train", training={"maxSteps": 60, **WILD})
    outcome = run_stage(context)
    assert (outcome.exit_code, outcome.reason) == (65, reasons.TRAINING_DIVERGED)
    uri = context.uri("train", "diverged")
    assert f"the last good one, is at {uri}" in outcome.message
    assert "training.learningRate" in outcome.advice
    names = {file.path for file in fetch_directory(context.store, uri, tmp_path / "kept", None).files}
    assert {"config.json", "model.safetensors"} <= names
    assert outcome.report is not None
    training = TrainingStatus.model_validate(outcome.report.wire()["training"], by_alias=True)
    assert training.curve
    assert not context.store.exists(context.uri("train", "model", "manifest.json"))


def test_the_rows_of_a_spike_are_named(
    tmp_path: Path, model: Path, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """39 rows that are easy to learn and one of other tokens, which is in the data once an epoch."""
    odd = 17
    shutil.copytree(rows, tmp_path / "rows")
    shutil.rmtree(tmp_path / "rows" / "train")
    writer = ShardWriter(tmp_path / "rows" / "train")
    for number in range(40):
        ids = [200 + (7 * index) % 100 for index in range(60)] if number == odd else [10, 11, 12, 13] * 4
        writer.add({INPUT_IDS: ids, LABELS: [IGNORED, *ids[1:]]})
    writer.finish()
    run = Run(tmp_path / "run", model, tmp_path / "rows", 40, **QUICK)
    spikes = run.train_here().spikes
    assert spikes
    assert {spike.rows[0].row for spike in spikes} == {odd}
    for spike in spikes:
        assert spike.loss > 1.5 * spike.usual
        assert spike.rows[0].loss > spike.loss
    assert f"The loss of step {spikes[0].step} is {spikes[0].loss:.4g}" in capsys.readouterr().out
