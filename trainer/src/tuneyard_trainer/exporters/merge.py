"""Writes the merged model: the base model with the adapter added, or the model of a full tuning; and the tokenizer."""

import shutil
from pathlib import Path
from typing import Final

from tuneyard_api.contracts.artifact import MANIFEST
from tuneyard_api.contracts.requests import ItemsDone, MergeOutcome, MergeRequest
from tuneyard_api.contracts.results import ArtifactRef, PrepareResult, TrainResult
from tuneyard_store.artifact import fetch_directory
from tuneyard_trainer.exporters.base import ExportJob
from tuneyard_trainer.exporters.serving_files import write_serving_files
from tuneyard_trainer.model.layout import download_model
from tuneyard_trainer.runtime.context import StageContext
from tuneyard_trainer.runtime.worker import Program, ProgressEvent, run_worker

WORKER: Final = Program("tuneyard_trainer.exporters.merge_worker", MergeOutcome)


def merge(job: ExportJob) -> None:
    """Downloads the base model and the adapter, and merges them.

    Without an adapter the model stays as it is: the one that was trained whole, or the base model of a job that trains
    nothing.

    Raises:
        BadInput: the adapter does not fit the base model's files.
        ArtifactCorrupt: adapter, model or tokenizer differ from their manifests.
    """
    context = job.context
    job.on_progress(0, "merging")
    trained = context.result_of(TrainResult) if context.spec.trains else None
    base = fetch_model(context, trained.model if trained else None)
    adapter = fetch_adapter(context, trained.adapter) if trained and trained.adapter else None

    def on_event(event: ProgressEvent) -> None:
        if isinstance(event, ItemsDone):
            context.log.info("merged shard %d of %d", event.done, event.total)

    request = MergeRequest(model=base, adapter=adapter, output=job.output)
    outcome = run_worker(context, WORKER, request, on_event=on_event)
    shutil.rmtree(base)
    prepared = context.result_of(PrepareResult)
    if prepared.tokenizer is not None:
        tokenizer = context.work / "tokenizer"
        fetch_directory(context.store, prepared.tokenizer.uri, tokenizer, prepared.tokenizer.digest)
        write_serving_files(job.output, tokenizer, prepared.end_of_turn)
    context.log.info("merged %d weights", outcome.merged)


def fetch_model(context: StageContext, trained: ArtifactRef | None) -> Path:
    """The model that was trained whole, or else the base model."""
    directory = context.work / "base"
    if trained is None:
        return download_model(context.store, context.spec.model.uri, directory)
    fetch_directory(context.store, trained.uri, directory, trained.digest)
    (directory / MANIFEST).unlink(missing_ok=True)
    return directory


def fetch_adapter(context: StageContext, trained: ArtifactRef) -> Path:
    directory = context.work / "adapter"
    fetch_directory(context.store, trained.uri, directory, trained.digest)
    return directory
