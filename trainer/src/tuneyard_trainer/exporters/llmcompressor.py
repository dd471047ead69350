"""Quantizes the merged model with llmcompressor, by the recipes of the formats."""

import json
import random
from collections.abc import Sequence
from typing import Any, Final

from tuneyard_api import names
from tuneyard_api.contracts.requests import ItemsDone, QuantizeOutcome, QuantizeRequest
from tuneyard_trainer import exporters
from tuneyard_trainer.data.columns import INPUT_IDS
from tuneyard_trainer.data.prepared import fetch_rows
from tuneyard_trainer.data.shards import read_rows
from tuneyard_trainer.exporters import fidelity
from tuneyard_trainer.exporters.base import ExportJob
from tuneyard_trainer.model.shape import ModelShape
from tuneyard_trainer.runtime.worker import Program, ProgressEvent, run_worker

WORKER: Final = Program("tuneyard_trainer.exporters.llmcompressor_worker", QuantizeOutcome, names.ENV_QUANTIZER_PYTHON)
OUTCOME: Final = "llmcompressor.json"


def quantize(job: ExportJob) -> None:
    """Hands out one format. The first call makes all formats of the job, in one process: its imports take seconds.

    Raises:
        BadInput: an artifact does not compute what the merged model does.
    """
    if not (job.shared / OUTCOME).exists():
        (job.shared / OUTCOME).write_text(_quantize_all(job).model_dump_json())
    outcome = QuantizeOutcome.model_validate_json((job.shared / OUTCOME).read_text())
    for path in (job.shared / job.format).iterdir():
        path.rename(job.output / path.name)
    found = outcome.fidelity[job.format]
    job.on_fidelity(found)
    job.context.log.info("%s: %s", job.format, fidelity.described(found))


def _quantize_all(job: ExportJob) -> QuantizeOutcome:
    """Quantizes with a sample of the training rows for calibration."""
    context, calibration = job.context, job.context.spec.export.calibration
    formats = [name for name in job.formats if exporters.format_of(name).recipe]
    rows = [row[INPUT_IDS] for row in read_rows(fetch_rows(context, "train"))]
    chosen = calibration_rows(rows, calibration.samples, context.spec.training.seed)
    doing = f"quantizing to {formats[0]}"
    job.on_progress(0, doing)
    context.log.info("quantizing to %s with %d calibration rows", ", ".join(formats), len(chosen))
    row_file = context.work / "calibration.json"
    row_file.write_text(json.dumps(chosen))

    def on_event(event: ProgressEvent) -> None:
        if isinstance(event, ItemsDone):
            job.on_progress(event.done / event.total, f"quantizing to {event.item}")

    request = QuantizeRequest(
        model=job.merged, formats=formats, rows=row_file, max_length=calibration.max_length, output=job.shared
    )
    return run_worker(context, WORKER, request, on_event=on_event)


def calibration_rows(rows: Sequence[list[int]], samples: int, seed: int) -> list[list[int]]:
    """A sample of the training rows, the same for the same seed."""
    return random.Random(f"calibration/{seed}").sample(list(rows), min(samples, len(rows)))  # noqa: S311


def misfit(shape: ModelShape) -> str | None:
    """Why no quantized format of llmcompressor fits a model; None where they may."""
    if shape.is_conv1d:
        return (
            f"the linear layers of {shape.model_type} are Conv1D in transformers, which llmcompressor cannot quantize"
        )
    if shape.experts:
        # What llmcompressor 0.14 writes of them is read by transformers 5 as something else, or not at all.
        return f"the experts of a mixture ({shape.experts[0]}) cannot be quantized"
    return None


def nearest(scheme: dict[str, Any], ignore: Sequence[str]) -> list[Any]:
    """Plain rounding of all linear layers to the nearest value of a scheme; called in the worker."""
    from llmcompressor.modifiers.quantization import QuantizationModifier  # noqa: PLC0415

    weights = scheme["weights"] | {"observer": "memoryless_minmax"}
    groups = {"group_0": {"targets": ["Linear"], **scheme, "weights": weights}}
    return [QuantizationModifier(config_groups=groups, ignore=list(ignore))]
