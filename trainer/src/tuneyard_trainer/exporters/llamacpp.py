"""Writes the merged model as GGUF with llama.cpp: its converter, its importance matrix, its quantizer."""

import json
from functools import partial
from typing import Final

from tuneyard_api.contracts.requests import GgufOutcome, GgufRequest, ItemsDone
from tuneyard_trainer.data.columns import INPUT_IDS
from tuneyard_trainer.data.prepared import fetch_rows
from tuneyard_trainer.data.shards import read_rows
from tuneyard_trainer.exporters import fidelity
from tuneyard_trainer.exporters.base import ArtifactFormat, ExportJob
from tuneyard_trainer.exporters.llmcompressor import calibration_rows
from tuneyard_trainer.metrics.scorers import LLAMACPP
from tuneyard_trainer.model.llamacpp import is_known_tokenizer, known_architectures, llamacpp_home
from tuneyard_trainer.model.shape import ModelShape
from tuneyard_trainer.runtime.worker import Program, ProgressEvent, run_worker

WORKER: Final = Program("tuneyard_trainer.exporters.llamacpp_worker", GgufOutcome)


def gguf(quantization: str, *, importance: bool) -> ArtifactFormat:
    """A format of llama.cpp.

    Args:
        quantization: llama.cpp's name of the type.
        importance: whether the type's rounding uses an importance matrix: the mean squares of the activations over
            calibration rows, so that the weights that matter most are rounded best.
    """
    return ArtifactFormat(export=partial(quantize, quantization, importance), scorer=LLAMACPP, misfit=misfit)


def misfit(shape: ModelShape) -> str | None:
    home = llamacpp_home()
    if home is None:
        return "gguf formats are made by llama.cpp, which is not installed here (TUNEYARD_LLAMACPP is not set)"
    if shape.architecture and shape.architecture not in known_architectures(home):
        return f"llama.cpp's converter does not know the architecture {shape.architecture}"
    if shape.tokenizer and shape.tokenizer.is_file() and not is_known_tokenizer(shape.tokenizer, home):
        return "llama.cpp's converter does not know how the model's tokenizer splits text into words"
    return None


def quantize(quantization: str, importance: bool, job: ExportJob) -> None:
    """Writes the artifact's only file. The importance matrix is of training rows, tokenized as they are served.

    Raises:
        BadInput: the file does not compute what the merged model does.
    """
    context = job.context
    doing = f"quantizing to {job.format}"
    job.on_progress(0, doing)
    context.log.info("%s", doing)
    rows = context.work / "calibration.json"
    rows.write_text(json.dumps(_calibration(job)))

    def on_event(event: ProgressEvent) -> None:
        if isinstance(event, ItemsDone):
            job.on_progress(event.done / event.total, event.item)

    request = GgufRequest(
        model=job.merged,
        name=context.name,
        quantization=quantization,
        rows=rows,
        importance=importance,
        shared=job.shared,
        output=job.output / f"{context.name}-{quantization}.gguf",
    )
    outcome = run_worker(context, WORKER, request, on_event=on_event)
    for note in notes(outcome, quantization):
        job.on_note(note)
    if outcome.fidelity:
        fidelity.check(job.format, outcome.fidelity, None)
        job.on_fidelity(outcome.fidelity)
        context.log.info("%s: %s", job.format, fidelity.described(outcome.fidelity))


def _calibration(job: ExportJob) -> list[list[int]]:
    calibration = job.context.spec.export.calibration
    rows = [row[INPUT_IDS] for row in read_rows(fetch_rows(job.context, "train"))]
    chosen = calibration_rows(rows, calibration.samples, job.context.spec.training.seed)
    return [row[: calibration.max_length] for row in chosen]


def notes(outcome: GgufOutcome, quantization: str) -> list[str]:
    """What people should know of the file."""
    found = []
    if outcome.fallbacks:
        found.append(
            f"{outcome.fallbacks} of {outcome.tensors} matrices have rows that do not divide by 256, as {quantization} "
            "needs it: they have other types, so the file is larger than those of most models."
        )
    if outcome.split_otherwise:
        found.append(
            f"llama.cpp splits {outcome.split_otherwise} of {outcome.rows} calibration rows into other tokens than the "
            "model's own tokenizer: compare the answers before you serve it."
        )
    return found
