"""A run of the peft backend's worker in its own folder, which can be stopped and resumed."""

import os
import sys
from functools import cache
from multiprocessing import forkserver, get_context
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from integration.conftest import MODEL_URI, job_spec
from tuneyard_api.contracts.requests import WORKER_EVENT, TrainOutcome, TrainRequest, WorkerResult
from tuneyard_trainer.backends.peft.backend import PeftRequest, native_config
from tuneyard_trainer.backends.peft.worker import fine_tune
from tuneyard_trainer.runtime.worker import environment
from tuneyard_trainer.runtime.worker_main import RECORD, worker_main

STEPS = 8


class Run:
    """A training run in its own folder, which can be stopped and resumed."""

    def __init__(self, folder: Path, model: Path, rows: Path, steps: int = STEPS, **training: Any) -> None:
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
            steps=steps,
            gpus=0,
            devices=1,
            checkpoints=folder / "checkpoints",
            output=folder / "output",
            native=folder / "native",
            events=folder / "events",
            stop_file=folder / "stop",
            threads=2,
        )
        self.plain = request
        self.request = native_config(request)

    def train(self, *, stop: bool = False, resume: Path | None = None) -> TrainOutcome:
        """Trains to the last step in another process, or only one more step with `stop`."""
        (self.folder / "stop").touch() if stop else (self.folder / "stop").unlink(missing_ok=True)
        request_file = self.folder / "request.json"
        request = self.request.model_copy(update={"resume": resume})
        request_file.write_text(request.model_dump_json(by_alias=True))
        output_file = self.folder / "output.txt"
        process = forks_of_worker().Process(target=work, args=(request_file, output_file))
        process.start()
        process.join()
        output = output_file.read_text()
        assert process.exitcode == 0, output[-2000:]
        events = [WORKER_EVENT.validate_json(line[1:]) for line in output.split("\n") if line.startswith(RECORD)]
        assert isinstance(events[-1], WorkerResult)
        self.outcome = TrainOutcome.model_validate(events[-1].result)
        return self.outcome

    def train_here(self) -> TrainOutcome:
        """Trains to the last step in this process, which saves the time to start another one."""
        outcome = fine_tune(self.request)
        assert outcome is not None
        self.outcome = outcome
        return outcome

    def checkpoint(self, step: int) -> Path:
        return self.folder / "checkpoints" / f"checkpoint-{step}"

    @property
    def weights(self) -> bytes:
        return b"".join(path.read_bytes() for path in sorted((self.folder / "output").glob("*.safetensors")))


@cache
def forks_of_worker() -> ForkServerContext:
    """Processes forked from one that has imported the worker, which takes the most of the time of a short run."""
    context = get_context("forkserver")
    context.set_forkserver_preload([fine_tune.__module__])
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(os.environ, 2, use_gpus=False).items():
            patch.setenv(name, value)
        forkserver.ensure_running()
    return context


def work(request: Path, output: Path) -> None:
    """The worker's program; what it prints goes to a file."""
    with output.open("w") as stream:
        os.dup2(stream.fileno(), sys.stdout.fileno())
        os.dup2(stream.fileno(), sys.stderr.fileno())
    np.random.seed()  # as in a new process; PyTorch's generator begins with the same seed in every process
    sys.argv[1:] = [str(request)]
    worker_main(PeftRequest, fine_tune)
