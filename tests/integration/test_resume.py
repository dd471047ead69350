"""A run that was stopped and resumed ends with the same weights as an undisturbed run, byte by byte."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from integration.conftest import MODEL_URI, job_spec
from tuneyard_api.contracts.requests import WORKER_EVENT, TrainOutcome, TrainRequest, WorkerResult
from tuneyard_trainer.backends.peft.backend import native_config
from tuneyard_trainer.runtime.worker import environment
from tuneyard_trainer.runtime.worker_main import RECORD

STEPS = 8


class Run:
    """A training run in its own folder, which can be stopped and resumed."""

    def __init__(self, folder: Path, model: Path, rows: Path, **training: Any) -> None:
        self.folder = folder
        self.model, self.rows = model, rows
        self.outcome = TrainOutcome(steps=0, finished=False, kept_step=0)
        self.folder.mkdir()
        request = TrainRequest(
            model=model,
            model_uri=MODEL_URI,
            rows=rows / "train",
            validation_rows=rows / "validation",
            validation_count=12,
            validation_steps=1,
            training=job_spec(training=training).training,
            steps=STEPS,
            gpus=0,
            devices=1,
            checkpoints=folder / "checkpoints",
            output=folder / "adapter",
            stop_file=folder / "stop",
            threads=2,
        )
        self.request = native_config(request)

    def train(self, *, stop: bool = False, resume: Path | None = None) -> TrainOutcome:
        """Trains to the last step, or only one more step with `stop`."""
        (self.folder / "stop").touch() if stop else (self.folder / "stop").unlink(missing_ok=True)
        request_file = self.folder / "request.json"
        request = self.request.model_copy(update={"resume": resume})
        request_file.write_text(request.model_dump_json(by_alias=True))
        command = [sys.executable, "-m", "tuneyard_trainer.backends.peft.worker", str(request_file)]
        done = subprocess.run(
            command, env=environment(os.environ, 2, use_gpus=False), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
        events = [WORKER_EVENT.validate_json(line[1:]) for line in done.stdout.split("\n") if line.startswith(RECORD)]
        assert isinstance(events[-1], WorkerResult)
        self.outcome = TrainOutcome.model_validate(events[-1].result)
        return self.outcome

    def checkpoint(self, step: int) -> Path:
        return self.folder / "checkpoints" / f"checkpoint-{step}"

    @property
    def weights(self) -> bytes:
        return (self.folder / "adapter" / "adapter_model.safetensors").read_bytes()


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
    """A run that is over-trained from its second step on: its best adapter is that of the first step."""
    too_fast = {"learningRate": 0.3, "scheduler": "constant", "earlyStopping": {"patience": 3}}
    expected = Run(tmp_path / "uninterrupted", model, rows, **too_fast)
    outcome = expected.train()
    assert outcome.finished
    assert outcome.stopped_early
    lowest = min(outcome.curve, key=lambda point: point.validation_loss)
    assert outcome.kept_step == lowest.step < outcome.steps == lowest.step + 3

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
