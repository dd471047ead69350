"""The train stage: the backend makes an adapter; its checkpoints go to the store, so that a stopped run goes on."""

from pathlib import Path
from typing import Any

from tuneyard_api import reasons
from tuneyard_store.manifest import publish_directory
from tuneyard_trainer.backends import BACKENDS
from tuneyard_trainer.backends.schedule import micro_batch_size, total_steps
from tuneyard_trainer.checkpoints import Checkpoints
from tuneyard_trainer.dataset.shards import read_rows
from tuneyard_trainer.errors import TryAgain
from tuneyard_trainer.models import download_model, fresh
from tuneyard_trainer.stage import StageContext
from tuneyard_trainer.worker import Json, run_worker


def run(context: StageContext) -> dict[str, Any]:
    """Trains, or goes on from the newest checkpoint.

    Raises:
        TryAgain: the pod was stopped; the checkpoint of the last finished step is in the store.
        BadInput: the GPU is not visible, the spec does not fit the model, the loss left the finite numbers.
        DoesNotFit: out of memory.
    """
    training = context.spec.training
    gpus = context.spec.resources.gpus
    micro_batch_size(training, max(1, gpus))
    rows = fetch_rows(context, "train")
    steps = total_steps(training, len(read_rows(rows)))
    context.progress.update(percent=0, step=0, steps=steps, message="fetching the model")
    model = download_model(context.store, context.spec.model.uri, context.work / "base")
    checkpoints = Checkpoints(context)
    newest = checkpoints.fetch_newest(context.work / "resume")
    if newest:
        context.log.info("resuming from the checkpoint of step %d", newest.step)

    adapter = fresh(context.work / "adapter")
    stop_file = context.work / "stop"
    stop_file.unlink(missing_ok=True)
    job: Json = {
        "model": str(model),
        "model_uri": context.spec.model.uri,
        "rows": str(rows),
        "training": training.wire(),
        "steps": steps,
        "gpus": gpus,
        "resume": str(newest.directory) if newest else None,
        "checkpoints": str(context.work / "checkpoints"),
        "output": str(adapter),
        "stop_file": str(stop_file),
    }

    def on_event(event: Json) -> None:
        if event["event"] == "checkpoint":
            checkpoints.save(Path(event["path"]), event["step"])
        else:
            report(context, event)

    context.progress.update(message="training")
    backend = BACKENDS[training.backend]
    result = run_worker(context, backend, job, on_event=on_event, processes=max(1, gpus), stop_file=stop_file)
    if result["steps"] < steps:
        raise TryAgain(
            reasons.PREEMPTED,
            f"Stopped after step {result['steps']} of {steps}; checkpoint: {checkpoints.uri(result['steps'])}",
            "Nothing to do: the next pod goes on from there.",
        )
    manifest = publish_directory(context.store, adapter, context.uri("train", "adapter"), "adapter")
    return result | {"adapterURI": context.uri("train", "adapter"), "adapterDigest": manifest.digest}


def fetch_rows(context: StageContext, split: str) -> Path:
    """Downloads prepare's tokenized rows (split: train or validation) and returns their directory."""
    directory = context.work / "rows" / split
    directory.mkdir(parents=True, exist_ok=True)
    for item in context.store.list(context.uri("prepare", split) + "/"):
        context.store.download(item.uri, directory / item.uri.rsplit("/", 1)[1])
    return directory


def report(context: StageContext, event: Json) -> None:
    """Passes the worker's progress on: to /progress and, as one line, to the log."""
    step, steps = event["step"], event["steps"]
    context.progress.update(
        percent=100 * step // steps,
        step=step,
        steps=steps,
        loss=event["loss"],
        tokens_per_second=event["tokens_per_second"],
        message="training",
    )
    context.log.info("step %d/%d  loss %.4f  %.0f tokens/s", step, steps, event["loss"], event["tokens_per_second"])
