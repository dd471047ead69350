"""Steps of random models on a GPU: speed, and memory beside the estimate of prepare. `make gpu` runs it.

It needs no cluster, no store and no internet: a Python with torch and transformers, and the packages of
tests/gpu/requirements.txt. `--tiny` runs the same programs on any machine, with models that say nothing.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
import transformers

from gpu.merging import merge
from gpu.shapes import SHAPES, make_model, make_streamed_model
from gpu.training import LENGTH, MICRO, ROWS_A_STEP, chat_lengths, run, run_trl, spec_of, write_rows
from tuneyard_trainer.backends.ladder import ladder
from tuneyard_trainer.backends.peft.backend import BACKEND
from tuneyard_trainer.backends.schedule import micro_batch_size
from tuneyard_trainer.model.fit import estimate_fit
from tuneyard_trainer.model.layout import weight_files
from tuneyard_trainer.model.shape import local_shape

ROWS: Final = 512
STEPS: Final = 12
FEW_STEPS: Final = 2
CARD_GIB: Final = 22.5
"""What PyTorch finds on a card of 24 GB, such as an L4."""
BATCH: Final = {"effectiveBatchSize": ROWS_A_STEP, "microBatchSize": MICRO}
FULL_ROWS: Final = "full-rows"
"""The folder of rows that are as the estimate takes them to be: as long as may be, with all tokens trained."""
LADDER_GIB: Final = (12.0, 8.0, 6.0)
"""Of the GPU's memory, in which a LoRA of the 1B model with eight rows at a time is trained."""


class Bench(NamedTuple):
    """Where the programs run, and with which models."""

    folder: Path
    gpus: int
    shapes: dict[str, str]
    """The shape that stands for each."""

    def model(self, name: str, *, streamed: bool = False) -> Path:
        """One at a time is on the disk."""
        directory = self.folder / f"model-{name}"
        if directory.exists():
            return directory
        for other in self.folder.glob("model-*"):
            shutil.rmtree(other)
        return (make_streamed_model if streamed else make_model)(directory, self.shapes[name])

    def share(self, gib: float) -> float:
        """So much memory as a part of the GPU's."""
        total = torch.cuda.get_device_properties(0).total_memory if self.gpus else gib * 2**30
        return min(1.0, gib * 2**30 / total)


def training(bench: Bench, name: str, rows: str = "rows", **spec: Any) -> dict[str, Any]:
    """A run with the settings of the spec, beside the estimate for it."""
    job = spec_of({"maxLength": LENGTH, **BATCH, "oomRecovery": False} | spec, bench.gpus)
    model = bench.model(name)
    fit = estimate_fit(job, local_shape(model, weight_files(model)), micro_batch_size(job.training, 1))
    rung = ladder(job.training, 1, bool(bench.gpus), BACKEND.memory_savers)[0]
    seen = run(bench.folder / "run", model, rung, STEPS, bench.gpus, rows=bench.folder / rows)
    return {"shape": name, "training": spec, "estimateGiB": fit and fit.required_gib, **seen._asdict()}


def with_trl(bench: Bench, name: str, *, packed: bool) -> dict[str, Any]:
    """The rows of the other runs, trained by TRL, where it is installed."""
    if find_spec("trl") is None:
        return {"error": "not begun: no trl"}
    return {"shape": name, **run_trl(bench.folder / "run", bench.model(name), STEPS, packed=packed)._asdict()}


def streaming(bench: Bench, name: str, gib: float, **spec: Any) -> dict[str, Any]:
    """A run within so much memory, whose model stays on the disk, beside the estimate for it."""
    alone = {"effectiveBatchSize": 1, "packing": False, "maxLength": LENGTH}
    training = {"method": "qlora", "streamWeights": True, **alone, **spec}
    job, model = spec_of(training, bench.gpus), bench.model(name, streamed=True)
    fit = estimate_fit(job, local_shape(model, weight_files(model)), 1)
    rung = ladder(job.training, 1, bool(bench.gpus), BACKEND.memory_savers)[0]
    seen = run(bench.folder / "run", model, rung, FEW_STEPS, bench.gpus, bench.share(gib))
    return {"shape": name, "limitGiB": gib, "estimateGiB": fit and fit.required_gib, **seen._asdict()}


def climbing(bench: Bench, gib: float) -> dict[str, Any]:
    """The rungs that a run climbs until it fits into so much memory."""
    job = spec_of({"maxLength": LENGTH, "effectiveBatchSize": 8, "microBatchSize": 8}, bench.gpus)
    tried = []
    for rung in ladder(job.training, 1, bool(bench.gpus), BACKEND.memory_savers):
        seen = run(bench.folder / "run", bench.model("1B"), rung, STEPS, bench.gpus, bench.share(gib))
        tried.append({"rung": rung.change, **seen._asdict()})
        if seen.error is None:
            break
    return {"limitGiB": gib, "rungs": tried}


def merging(bench: Bench, name: str) -> dict[str, Any]:
    """The merge of an adapter, which uses up the model."""
    model = bench.model(name)
    seen = merge(bench.folder / "run", model, bench.shapes[name])
    shutil.rmtree(model)
    return {"shape": name, **seen}


CHECKPOINTED: Final[dict[str, Any]] = {"gradientCheckpointing": True, "effectiveBatchSize": 8, "microBatchSize": 4}
EXPERIMENTS: Final[dict[str, Callable[[Bench], dict[str, Any]]]] = {
    "lora-1B-packed": partial(training, name="1B", method="lora"),
    "lora-1B-packed-without-liger": partial(training, name="1B", method="lora", useLigerKernel=False),
    "lora-1B-padded": partial(training, name="1B", method="lora", packing=False),
    "trl-1B": partial(with_trl, name="1B", packed=False),
    "trl-1B-packed": partial(with_trl, name="1B", packed=True),
    "lora-1B-full-rows": partial(training, name="1B", rows=FULL_ROWS, method="lora", microBatchSize=8),
    "qlora-1B": partial(training, name="1B", method="qlora"),
    "qlora-1B-full-rows": partial(training, name="1B", rows=FULL_ROWS, method="qlora", microBatchSize=8),
    **{f"ladder-{gib:g}GiB": partial(climbing, gib=gib) for gib in LADDER_GIB},
    "lora-8B": partial(training, name="8B", method="lora", **CHECKPOINTED),
    "qlora-8B": partial(training, name="8B", method="qlora", **CHECKPOINTED),
    "merge-8B": partial(merging, name="8B"),
    "qlora-70B-streamed": partial(streaming, name="70B", gib=CARD_GIB),
}


def machine() -> dict[str, Any]:
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    return {
        "gpu": gpu,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "transformers": transformers.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("gpu.json"))
    parser.add_argument("--only", nargs="*", metavar="NAME", help="default: all experiments")
    parser.add_argument("--seconds", type=float, default=480, help="no experiment begins later")
    parser.add_argument("--tiny", action="store_true", help="with a tiny model, on the CPU where there is no GPU")
    options = parser.parse_args()
    if not torch.cuda.is_available() and not options.tiny:
        sys.exit("PyTorch sees no GPU. --tiny tries the programs without one.")
    shapes = {name: "tiny" if options.tiny else name for name in SHAPES}
    began, results = time.monotonic(), {}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), int(torch.cuda.is_available()), shapes)
        vocabulary = SHAPES[shapes["1B"]]["vocab_size"]
        write_rows(bench.folder / "rows", chat_lengths(ROWS, LENGTH), vocabulary)
        write_rows(bench.folder / FULL_ROWS, [LENGTH] * 4 * ROWS_A_STEP, vocabulary, trained=1.0)
        for name, experiment in EXPERIMENTS.items():
            if options.only and name not in options.only:
                continue
            left = options.seconds - (time.monotonic() - began)
            results[name] = experiment(bench) if left > 0 else {"error": "not begun: the time was up"}
            shutil.rmtree(bench.folder / "run", ignore_errors=True)
            print(name, json.dumps(results[name]), flush=True)
            options.output.write_text(json.dumps({"machine": machine(), "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
