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
WARM_UP: Final = 3  # steps
PEAK: Final = "peak bytes: "
SPEED: Final = "train/tokens_per_second"
TIMEOUT: Final = 300.0  # seconds


class Run(NamedTuple):
    """What a run has shown."""

    tokens_per_second: float | None
    """The median of its steps after the first ones."""
    peak_gib: float | None
    """The most that PyTorch has reserved on the GPU."""
    seconds: float
    """With loading the model."""
    error: str | None


def spec_of(training: dict[str, Any], gpus: int) -> FineTuneJobSpec:
    parts = {
        "model": {"uri": "s3://models/random"},
        "dataset": {"train": [{"uri": "s3://data/random.jsonl"}]},
        "output": {"uri": "s3://artifacts/random", "secretRef": {"name": "keys"}},
        "resources": {"gpus": gpus},
        "training": training,
    }
    return FineTuneJobSpec.model_validate(parts)


def write_rows(directory: Path, lengths: list[int], vocabulary: int) -> None:
    """Rows of random tokens, whose last third is trained."""
    chance = Random(1)  # noqa: S311
    writer = ShardWriter(directory)
    for length in lengths:
        ids = [chance.randrange(10, vocabulary) for _ in range(length)]
        prompt = length - length // 3
        writer.add({INPUT_IDS: ids, LABELS: [IGNORED] * prompt + ids[prompt:]})
    writer.finish()


def chat_lengths(count: int, longest: int) -> list[int]:
    """Log-normal, as the lengths of chats are: median 250 tokens, 95 % below 900."""
    chance = Random(2)  # noqa: S311
    return [max(8, min(longest, round(chance.lognormvariate(5.52, 0.78)))) for _ in range(count)]


def run(folder: Path, model: Path, rung: Rung, steps: int, gpus: int, share: float = 1.0) -> Run:
    """Trains so many steps on `folder`/rows, in a process of its own."""
    folder.mkdir(exist_ok=True)
    request = TrainRequest(
        model=model,
        model_uri="s3://models/random",
        rows=folder.parent / "rows",
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
    began = time.monotonic()
    command = [sys.executable, "-W", "ignore", "-m", "gpu.training", str(path), str(share)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        return Run(None, None, TIMEOUT, f"not done within {TIMEOUT:.0f} s")
    seen = _read(done.stdout, time.monotonic() - began)
    if done.returncode and seen.error is None:
        return seen._replace(error=done.stderr[-2000:])
    return seen


def _read(output: str, seconds: float) -> Run:
    events = list(_events(output))
    speeds = [event.metrics[SPEED] for event in events if isinstance(event, MetricsLogged) and SPEED in event.metrics]
    failures = [f"{event.reason}: {event.message}" for event in events if isinstance(event, WorkerFailed)]
    peaks = [int(line.removeprefix(PEAK)) for line in output.split("\n") if line.startswith(PEAK)]
    return Run(
        round(median(speeds[WARM_UP:] or speeds), 1) if speeds else None,
        round(peaks[-1] / 2**30, 2) if peaks else None,
        round(seconds, 1),
        failures[-1] if failures else None,
    )


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
