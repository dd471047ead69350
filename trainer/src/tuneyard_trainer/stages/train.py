"""The train stage: the backend makes an adapter; its checkpoints go to the store, so that a stopped run goes on."""

from pathlib import Path
from typing import Any, Final

from tuneyard_api import reasons
from tuneyard_store.artifact import publish_directory
from tuneyard_trainer.backends import BACKENDS
from tuneyard_trainer.backends.schedule import micro_batch_size, total_steps
from tuneyard_trainer.data.shards import read_rows
from tuneyard_trainer.model.layout import download_model, fresh
from tuneyard_trainer.runtime.checkpoints import Checkpoint, Checkpoints
from tuneyard_trainer.runtime.errors import TryAgain
from tuneyard_trainer.runtime.rendezvous import AGAIN, Peers, peers_of
from tuneyard_trainer.runtime.stage_runner import StageContext
from tuneyard_trainer.runtime.worker import Json, run_worker

COMMIT_SECONDS: Final = 2.0  # between two looks for the commit mark


def run(context: StageContext) -> dict[str, Any]:
    """Trains, or goes on from the newest checkpoint.

    Raises:
        TryAgain: the pod was stopped, the checkpoint of the last finished step is in the store; or another one of
            several nodes is gone.
        BadInput: the GPU is not visible, the spec does not fit the model, the loss left the finite numbers.
        DoesNotFit: out of memory.
    """
    with peers_of(context.group) as peers:
        return _run(context, peers)


def _run(context: StageContext, peers: Peers) -> Json:
    training, group = context.spec.training, context.group
    processes = max(1, context.spec.resources.gpus)
    devices = processes * group.nodes
    micro_batch_size(training, devices)
    rows = fetch_rows(context, "train")
    steps = total_steps(training, len(read_rows(rows)))
    checkpoints = Checkpoints(context)
    context.progress.update(percent=0, step=0, steps=steps)
    newest = _agreed_checkpoint(context, peers, checkpoints)
    context.progress.update(message="fetching the model")
    model = download_model(context.store, context.spec.model.uri, context.work / "base")

    adapter = fresh(context.work / "adapter")
    stop_file = context.work / "stop"
    stop_file.unlink(missing_ok=True)
    job: Json = {
        "model": str(model),
        "model_uri": context.spec.model.uri,
        "rows": str(rows),
        "training": training.wire(),
        "steps": steps,
        "gpus": context.spec.resources.gpus,
        "devices": devices,
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
    result = run_worker(context, backend, job, on_event=on_event, processes=processes, peers=peers, stop_file=stop_file)
    if result["steps"] < steps:
        raise TryAgain(
            reasons.PREEMPTED if context.stopping.is_set() else reasons.PEER_LOST,
            f"Stopped after step {result['steps']} of {steps}; checkpoint: {checkpoints.uri(result['steps'])}",
            "Nothing to do: the next pod goes on from there.",
        )
    if not group.leads:
        return _committed(context, peers)
    manifest = publish_directory(context.store, adapter, context.uri("train", "adapter"), "adapter")
    return result | {"adapterURI": context.uri("train", "adapter"), "adapterDigest": manifest.digest}


def _agreed_checkpoint(context: StageContext, peers: Peers, checkpoints: Checkpoints) -> Checkpoint | None:
    """The one from which all pods go on: the newest that the first of them finds."""
    folder = context.work / "resume"
    newest = checkpoints.fetch_newest(folder) if context.group.leads else None
    if context.group.nodes > 1:
        context.progress.update(message="waiting for the other nodes")
        context.log.info("this is number %d of %d nodes", context.group.number, context.group.nodes)
    step = peers.agree(newest.step if newest else None, context.stopping)
    if step is not None:
        context.log.info("resuming from the checkpoint of step %d", step)
    return newest or (checkpoints.fetch(step, folder) if step is not None else None)


def _committed(context: StageContext, peers: Peers) -> Json:
    """Waits until the first pod has committed the stage: without the others it could not train again.

    Raises:
        TryAgain: it is gone, and has not.
    """
    while (result := context.mark("train")) is None:
        if context.stopping.is_set():
            raise TryAgain(reasons.PREEMPTED, "The pod was stopped before the adapter was published.", AGAIN)
        if peers.lost.is_set():
            raise TryAgain(reasons.PEER_LOST, "The first pod is gone before it has published the adapter.", AGAIN)
        peers.lost.wait(COMMIT_SECONDS)
    return result


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
