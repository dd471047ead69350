"""One training run of the peft backend's worker, with what it took: python -m gpu.training REQUEST [SHARE]

The request is that which a pod of train gives its worker. SHARE is the part of the GPU's memory that it may use.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from statistics import median
from typing import Any, Final, NamedTuple

import torch
from pydantic import TypeAdapter

from tuneyard_api.contracts.requests import MetricsLogged, TrainRequest, WorkerEvent, WorkerFailed
from tuneyard_api.kinds.finetunejob import FineTuneJobSpec
from tuneyard_trainer.backends.ladder import Rung
from tuneyard_trainer.backends.peft.backend import PeftRequest, native_config
from tuneyard_trainer.backends.peft.worker import fine_tune
from tuneyard_trainer.data.columns import IGNORED, INPUT_IDS, LABELS
from tuneyard_trainer.data.shards import ShardWriter
from tuneyard_trainer.runtime.worker_main import RECORD, worker_main

EVENT: Final = TypeAdapter[Any](WorkerEvent)
LENGTH: Final = 1024
ROWS_A_STEP: Final = 32
MICRO: Final = 16
RANK: Final = 16
WARM_UP: Final = 4  # steps
PEAK: Final = "peak bytes: "
SPEED_LINE: Final = "tokens per second: "
SPEED: Final = "train/tokens_per_second"
TIMEOUT: Final = 300.0  # seconds
NOTES: Final = ("Liger", "Rows", "The loss")


class Run(NamedTuple):
    """What a run has shown."""

    tokens_per_second: float | None
    """The median of its steps after the first ones."""
    peak_gib: float | None
    """The most that PyTorch has reserved on the GPU."""
    seconds: float
    """With loading the model."""
    error: str | None
    notes: list[str] = []
    """What the run says of its kernels and its batches."""


def spec_of(training: dict[str, Any], gpus: int) -> FineTuneJobSpec:
    parts = {
        "model": {"uri": "s3://models/random"},
        "dataset": {"train": [{"uri": "s3://data/random.jsonl"}]},
        "output": {"uri": "s3://artifacts/random", "secretRef": {"name": "keys"}},
        "resources": {"gpus": gpus},
        "training": training,
    }
    return FineTuneJobSpec.model_validate(parts)


def write_rows(directory: Path, lengths: list[int], vocabulary: int, trained: float = 1 / 3) -> None:
    """Rows of random tokens, of which the last ones are trained."""
    chance = Random(1)  # noqa: S311
    writer = ShardWriter(directory)
    for length in lengths:
        ids = [chance.randrange(10, vocabulary) for _ in range(length)]
        prompt = length - round(trained * length)
        writer.add({INPUT_IDS: ids, LABELS: [IGNORED] * prompt + ids[prompt:]})
    writer.finish()


def chat_lengths(count: int, longest: int) -> list[int]:
    """Log-normal, as the lengths of chats are: median 250 tokens, 95 % below 900."""
    chance = Random(2)  # noqa: S311
    return [max(8, min(longest, round(chance.lognormvariate(5.52, 0.78)))) for _ in range(count)]


def run(
    folder: Path, model: Path, rung: Rung, steps: int, gpus: int, share: float = 1.0, rows: Path | None = None
) -> Run:
    """Trains so many steps, in a process of its own; on the rows beside `folder` unless others are given."""
    folder.mkdir(exist_ok=True)
    request = TrainRequest(
        model=model,
        model_uri="s3://models/random",
        rows=rows or folder.parent / "rows",
        training=rung.training,
        memory_savers=rung.memory_savers,
        steps=steps,
        gpus=gpus,
        devices=max(1, gpus),
        checkpoints=folder / "checkpoints",
        output=folder / "output",
        native=folder / "native",
        events=folder / "events",
        stop_file=folder / "stop",
    )
    path = folder / "request.json"
    path.write_text(native_config(request).model_dump_json(by_alias=True))
    done = started("gpu.training", str(path), str(share))
    events = list(_events(done.output))
    speeds = [event.metrics[SPEED] for event in events if isinstance(event, MetricsLogged) and SPEED in event.metrics]
    failures = [f"{event.reason}: {event.message}" for event in events if isinstance(event, WorkerFailed)]
    return done.run(speeds)._replace(
        error=failures[-1] if failures else done.error,
        notes=[line for line in done.output.split("\n") if line.startswith(NOTES)],
    )


def run_trl(folder: Path, model: Path, steps: int, *, packed: bool) -> Run:
    """Trains so many steps on the rows beside `folder` with TRL, in a process of its own."""
    arguments = (folder.parent / "rows", model, folder, steps, *(["packed"] if packed else []))
    done = started("gpu.trl_run", *map(str, arguments))
    lines = done.output.split("\n")
    return done.run([float(line.removeprefix(SPEED_LINE)) for line in lines if line.startswith(SPEED_LINE)])


class Ended(NamedTuple):
    """A program that is done, or was given up."""

    output: str
    seconds: float
    error: str | None

    def run(self, speeds: list[float]) -> Run:
        """Its figures, with the tokens per second of its steps."""
        peaks = [int(line.removeprefix(PEAK)) for line in self.output.split("\n") if line.startswith(PEAK)]
        return Run(
            round(median(speeds[WARM_UP:] or speeds), 1) if speeds else None,
            round(peaks[-1] / 2**30, 2) if peaks else None,
            self.seconds,
            self.error,
        )


def started(module: str, *arguments: str) -> Ended:
    """A module of the tests, run to its end in a process of its own."""
    began = time.monotonic()
    command = [sys.executable, "-W", "ignore", "-m", module, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        return Ended("", TIMEOUT, f"not done within {TIMEOUT:.0f} s")
    seconds = round(time.monotonic() - began, 1)
    return Ended(done.stdout, seconds, done.stderr[-2000:] if done.returncode else None)


def _events(output: str) -> Iterator[Any]:
    for line in output.split("\n"):
        _, mark, event = line.partition(RECORD)
        if mark:
            yield EVENT.validate_python(json.loads(event))


if __name__ == "__main__":
    if torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(float(sys.argv[2]))
    try:
        worker_main(PeftRequest, fine_tune)
    finally:
        if torch.cuda.is_available():
            print(f"{PEAK}{torch.cuda.max_memory_reserved()}", flush=True)
