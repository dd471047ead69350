"""Quantizes the merged model with llmcompressor, by the recipe of the format."""

import json
import random
from collections.abc import Sequence
from typing import Final

from tuneyard_api import names
from tuneyard_api.contracts.requests import ItemsDone, QuantizeOutcome, QuantizeRequest
from tuneyard_trainer.data.columns import INPUT_IDS
from tuneyard_trainer.data.prepared import fetch_rows
from tuneyard_trainer.data.shards import read_rows
from tuneyard_trainer.exporters.base import ExportJob
from tuneyard_trainer.model.shape import ModelShape
from tuneyard_trainer.runtime.worker import Program, ProgressEvent, run_worker

WORKER: Final = Program("tuneyard_trainer.exporters.llmcompressor_worker", QuantizeOutcome, names.ENV_QUANTIZER_PYTHON)


def quantize(job: ExportJob) -> None:
    """Quantizes with a sample of the training rows for calibration."""
    context, calibration = job.context, job.context.spec.export.calibration
    rows = [row[INPUT_IDS] for row in read_rows(fetch_rows(context, "train"))]
    chosen = calibration_rows(rows, calibration.samples, context.spec.training.seed)
    doing = f"quantizing to {job.format}"
    job.on_progress(0, doing)
    context.log.info("%s with %d calibration rows", doing, len(chosen))
    row_file = context.work / "calibration.json"
    row_file.write_text(json.dumps(chosen))

    def on_event(event: ProgressEvent) -> None:
        if isinstance(event, ItemsDone):
            job.on_progress(event.done / event.total, doing)

    request = QuantizeRequest(
        model=job.merged, format=job.format, rows=row_file, max_length=calibration.max_length, output=job.output
    )
    run_worker(context, WORKER, request, on_event=on_event)


def calibration_rows(rows: Sequence[list[int]], samples: int, seed: int) -> list[list[int]]:
    """A sample of the training rows, the same for the same seed."""
    return random.Random(f"calibration/{seed}").sample(list(rows), min(samples, len(rows)))  # noqa: S311


def misfit(shape: ModelShape) -> str | None:
    """Why no format of llmcompressor fits a model; None where they may."""
    if shape.is_conv1d:
        return (
            f"the linear layers of {shape.model_type} are Conv1D in transformers, which llmcompressor cannot quantize"
        )
    if shape.joint_experts:
        return f"the model holds its experts as joint tensors ({shape.joint_experts[0]}), which cannot be quantized"
    return None
