"""A run that was stopped and resumed ends with the same weights as an undisturbed run, byte by byte."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from integration.runs import STEPS, Run


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, model: Path, rows: Path) -> Run:
    run = Run(tmp_path_factory.mktemp("resume") / "uninterrupted", model, rows)
    assert run.train().steps == STEPS
    return run


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, model: Path, rows: Path) -> Run:
    """A run that was stopped after its first step, resumed, and stopped after its second step."""
    run = Run(tmp_path_factory.mktemp("resume") / "stopped", model, rows)
    assert run.train(stop=True).steps == 1
    assert run.train(stop=True, resume=run.checkpoint(1)).steps == 2
    return run


def resumed(stopped: Run, to: Path, without: str | None = None) -> Run:
    """Resumes from the checkpoint of step 2 and trains to the last step; `without` removes a file of the checkpoint."""
    checkpoint = shutil.copytree(stopped.checkpoint(2), to / "checkpoint-2")
    if without:
        (checkpoint / without).unlink()
    run = Run(to / "run", stopped.model, stopped.rows)
    assert run.train(resume=checkpoint).steps == STEPS
    return run


def test_the_same_job_gives_the_same_bytes(uninterrupted: Run, tmp_path: Path, model: Path, rows: Path) -> None:
    second = Run(tmp_path / "second", model, rows)
    second.train()
    assert second.weights == uninterrupted.weights


def test_a_resumed_run_gives_the_same_bytes(uninterrupted: Run, stopped: Run, tmp_path: Path) -> None:
    run = resumed(stopped, tmp_path)
    assert run.weights == uninterrupted.weights
    assert run.outcome == uninterrupted.outcome


def test_the_best_step_survives_a_restart(tmp_path: Path, model: Path, rows: Path) -> None:
    """A run whose third step is worse than its second by far, on every kind of CPU."""
    too_fast: dict[str, Any] = {"learningRate": 0.1, "scheduler": "constant", "earlyStopping": {"patience": 1}}
    expected = Run(tmp_path / "uninterrupted", model, rows, **too_fast)
    outcome = expected.train()
    assert outcome.finished
    assert outcome.stopped_early
    lowest = min(outcome.curve, key=lambda point: point.validation_loss)
    assert outcome.kept_step == lowest.step < outcome.steps == lowest.step + 1

    run = Run(tmp_path / "stopped", model, rows, **too_fast)
    run.train(stop=True)
    for step in range(1, outcome.steps):
        assert run.train(stop=True, resume=run.checkpoint(step)).steps == step + 1
    assert run.outcome == outcome
    assert run.weights == expected.weights

    last = Run(tmp_path / "last", model, rows, **too_fast, keep="last")
    assert last.train().kept_step == outcome.steps
    assert last.weights != expected.weights


@pytest.mark.parametrize("part", ["rng_state.pth", "optimizer.pt"])
def test_the_comparison_can_fail(uninterrupted: Run, stopped: Run, tmp_path: Path, part: str) -> None:
    """Without the random state (for dropout) or the state of the optimizer, the weights differ."""
    assert resumed(stopped, tmp_path, without=part).weights != uninterrupted.weights


METHODS: dict[str, dict[str, Any]] = {
    "qlora": {"method": "qlora"},
    "dora": {"lora": {"rank": 4, "dropout": 0.1, "variant": "dora"}},
    "full": {"method": "full", "learningRate": 1e-3, "lora": {}},
}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_resumes_to_the_same_bytes(name: str, tmp_path: Path, model: Path, rows: Path) -> None:
    expected = Run(tmp_path / "uninterrupted", model, rows, **METHODS[name])
    expected.train()
    run = Run(tmp_path / "stopped", model, rows, **METHODS[name])
    assert run.train(stop=True).steps == 1
    assert run.train(resume=run.checkpoint(1)).steps == STEPS
    assert run.weights == expected.weights
    assert run.outcome == expected.outcome
