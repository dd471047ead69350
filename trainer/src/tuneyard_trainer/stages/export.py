"""The export stage: the merged model, and the quantized formats that are made of it.

bf16 is always made and published, because the others are made of it and evaluate measures it; it is listed as an
artifact when spec.export.formats has it.
"""

import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from tuneyard_api.contracts.requests import (
    ItemsDone,
    MergeOutcome,
    MergeRequest,
    QuantizeOutcome,
    QuantizeRequest,
)
from tuneyard_api.contracts.results import ExportedArtifact, ExportResult, TrainResult
from tuneyard_store.artifact import fetch_directory, publish_directory
from tuneyard_trainer.data.columns import INPUT_IDS
from tuneyard_trainer.data.prepared import fetch_rows
from tuneyard_trainer.data.shards import read_rows
from tuneyard_trainer.model.layout import download_model, fresh
from tuneyard_trainer.runtime.context import StageContext
from tuneyard_trainer.runtime.stage_runner import StageProgram
from tuneyard_trainer.runtime.worker import Program, ProgressEvent, run_worker

MERGE: Final = Program("tuneyard_trainer.exporters.merge", MergeOutcome)
QUANTIZE: Final = Program(
    "tuneyard_trainer.exporters.llmcompressor.oneshot", QuantizeOutcome, "TUNEYARD_QUANTIZER_PYTHON"
)


class Span(NamedTuple):
    """The part of the stage's percent that one format takes."""

    begin: float
    share: float

    def percent(self, done: float) -> int:
        return int(self.begin + self.share * done)


def run(context: StageContext) -> ExportResult:
    """Publishes each format as an artifact.

    Raises:
        BadInput: the adapter does not fit the base model's files.
        TryAgain: the pod was stopped.
        ArtifactCorrupt: the adapter is not what train wrote.
    """
    formats = context.spec.export.formats
    quantized = [name for name in formats if name != "bf16"]
    context.progress.update(percent=0, message="merging")
    merged = merge(context)
    artifacts = [publish(context, merged, "bf16")]
    share = 100 / (len(quantized) + 1)
    for number, name in enumerate(quantized, start=1):
        directory = quantize(context, merged, name, Span(number * share, share))
        artifacts.append(publish(context, directory, name))
        shutil.rmtree(directory)
    by_format = {artifact.format: artifact for artifact in artifacts}
    return ExportResult(artifacts=[by_format[name] for name in formats], merged=by_format["bf16"])


def merge(context: StageContext) -> Path:
    """The merged model's directory."""
    base = download_model(context.store, context.spec.model.uri, context.work / "base")
    adapter = context.work / "adapter"
    trained = context.result_of(TrainResult)
    fetch_directory(context.store, trained.adapter_uri, adapter, trained.adapter_digest)
    output = fresh(context.work / "bf16")
    request = MergeRequest(model=base, adapter=adapter, output=output, chat_template=context.spec.model.chat_template)

    def on_event(event: ProgressEvent) -> None:
        if isinstance(event, ItemsDone):
            context.log.info("merged shard %d of %d", event.done, event.total)

    outcome = run_worker(context, MERGE, request, on_event=on_event)
    shutil.rmtree(base)
    context.log.info("merged %d weights", outcome.merged)
    return output


def quantize(context: StageContext, merged: Path, name: str, span: Span) -> Path:
    """The directory of one quantized format."""

    def on_event(event: ProgressEvent) -> None:
        if isinstance(event, ItemsDone):
            context.progress.update(percent=span.percent(event.done / event.total))

    calibration = context.spec.export.calibration
    rows = [row[INPUT_IDS] for row in read_rows(fetch_rows(context, "train"))]
    chosen = calibration_rows(rows, calibration.samples, context.spec.training.seed)
    context.progress.update(percent=span.percent(0), message=f"quantizing to {name}")
    context.log.info("quantizing to %s with %d calibration rows", name, len(chosen))
    row_file = context.work / "calibration.json"
    row_file.write_text(json.dumps(chosen))
    output = fresh(context.work / name)
    request = QuantizeRequest(
        model=merged, format=name, rows=row_file, max_length=calibration.max_length, output=output
    )
    run_worker(context, QUANTIZE, request, on_event=on_event)
    return output


def calibration_rows(rows: Sequence[list[int]], samples: int, seed: int) -> list[list[int]]:
    """A sample of the training rows, the same for the same seed."""
    return random.Random(f"calibration/{seed}").sample(list(rows), min(samples, len(rows)))  # noqa: S311


def publish(context: StageContext, directory: Path, name: str) -> ExportedArtifact:
    """Uploads one artifact."""
    for path in directory.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)  # safetensors writes 0600
    uri = context.uri("export", name)
    manifest = publish_directory(context.store, directory, uri, name)
    context.log.info("published %s: %s, %.1f MB", name, uri, manifest.size_bytes / 1e6)
    return ExportedArtifact(format=name, uri=uri, digest=manifest.digest, size_bytes=manifest.size_bytes)


PROGRAM: Final = StageProgram(run)
