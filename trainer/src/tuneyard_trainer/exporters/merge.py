"""Writes the merged model: the base model with the adapter added, where one was trained, and the tokenizer."""

import shutil
from pathlib import Path
from typing import Final

from tuneyard_api.contracts.requests import ItemsDone, MergeOutcome, MergeRequest
from tuneyard_api.contracts.results import PrepareResult, TrainResult
from tuneyard_store.artifact import fetch_directory
from tuneyard_trainer.exporters.base import ExportJob
from tuneyard_trainer.exporters.serving_files import write_serving_files
from tuneyard_trainer.model.layout import download_model
from tuneyard_trainer.runtime.context import StageContext
from tuneyard_trainer.runtime.worker import Program, ProgressEvent, run_worker

WORKER: Final = Program("tuneyard_trainer.exporters.merge_worker", MergeOutcome)


def merge(job: ExportJob) -> None:
    """Downloads the base model and the adapter, and merges them; without training the base model stays as it is.

    Raises:
        BadInput: the adapter does not fit the base model's files.
        ArtifactCorrupt: the adapter or the tokenizer differs from its manifest.
    """
    context = job.context
    job.on_progress(0, "merging")
    base = download_model(context.store, context.spec.model.uri, context.work / "base")
    adapter = fetch_adapter(context) if context.spec.trains else None

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


def fetch_adapter(context: StageContext) -> Path:
    adapter = context.work / "adapter"
    trained = context.result_of(TrainResult)
    fetch_directory(context.store, trained.adapter_uri, adapter, trained.adapter_digest)
    return adapter
