"""The train stage: the backend trains an adapter; checkpoints in the store let a stopped run resume."""

from pathlib import Path
from typing import Final

from tuneyard_api import reasons
from tuneyard_api.contracts.requests import CheckpointWritten, TrainingProgress, TrainOutcome, TrainRequest
from tuneyard_api.contracts.results import TrainResult
from tuneyard_api.kinds.finetunejob_status import TrainingStatus
from tuneyard_api.kinds.training import Training
from tuneyard_store.artifact import publish_directory
from tuneyard_trainer.backends import backend_of, check_training, curve
from tuneyard_trainer.backends.schedule import total_steps
from tuneyard_trainer.data.prepared import fetch_rows
from tuneyard_trainer.data.shards import read_rows
from tuneyard_trainer.model.layout import download_model, fresh
from tuneyard_trainer.runtime.checkpoints import Checkpoint, Checkpoints
from tuneyard_trainer.runtime.context import StageContext
from tuneyard_trainer.runtime.errors import TryAgain
from tuneyard_trainer.runtime.rendezvous import RESTART_ADVICE, Rendezvous, rendezvous_of
from tuneyard_trainer.runtime.stage_runner import StageProgram
from tuneyard_trainer.runtime.worker import ProgressEvent, run_worker

COMMIT_POLL_SECONDS: Final = 2.0
VALIDATION_ROWS: Final = 200
"""Held-out rows that are validated during the run."""


def run(context: StageContext) -> TrainResult:
    """Trains, or resumes from the newest checkpoint.

    Raises:
        TryAgain: the pod was stopped, the checkpoint of the last finished step is in the store; or another node is
            lost.
        BadInput: the GPU is not visible, the spec does not fit the model, or the loss is not finite.
        DoesNotFit: out of memory.
    """
    with rendezvous_of(context.group) as rendezvous:
        return _train(context, rendezvous)


def _train(context: StageContext, rendezvous: Rendezvous) -> TrainResult:
    training, resources = context.spec.training, context.spec.resources
    check_training(context.spec)
    backend = backend_of(training.backend)
    rows, validation_rows = fetch_rows(context, "train"), fetch_rows(context, "validation")
    steps = total_steps(training, len(read_rows(rows)))
    checkpoints = Checkpoints(context)
    context.progress.update(percent=0, step=0, steps=steps)
    checkpoint = _agree_on_checkpoint(context, rendezvous, checkpoints)
    context.progress.update(message="fetching the model")
    model = download_model(context.store, context.spec.model.uri, context.work / "base")
    stop_file = context.work / "stop"
    stop_file.unlink(missing_ok=True)
    request = TrainRequest(
        model=model,
        model_uri=context.spec.model.uri,
        rows=rows,
        validation_rows=validation_rows,
        validation_count=VALIDATION_ROWS,
        validation_steps=_validation_steps(training, steps, rows, validation_rows),
        training=training,
        steps=steps,
        gpus=resources.gpus,
        devices=resources.devices,
        resume=checkpoint.directory if checkpoint else None,
        checkpoints=context.work / "checkpoints",
        output=fresh(context.work / "adapter"),
        native=fresh(context.work / "native"),
        stop_file=stop_file,
    )

    def on_event(event: ProgressEvent) -> None:
        match event:
            case CheckpointWritten():
                checkpoints.save(event.path, event.step)
            case TrainingProgress():
                _show_progress(context, event)

    context.progress.update(message="training")
    outcome = run_worker(
        context,
        backend.worker,
        backend.native_config(request),
        on_event=on_event,
        processes=max(1, resources.gpus),
        rendezvous=rendezvous,
        stop_file=stop_file,
    )
    if not outcome.finished:
        raise TryAgain(
            reasons.PREEMPTED if context.stopping.is_set() else reasons.PEER_LOST,
            f"Stopped after step {outcome.steps} of {steps}; checkpoint: {checkpoints.uri(outcome.steps)}",
            "Nothing to do: the next pod resumes from there.",
        )
    if not context.group.is_leader:
        return _wait_for_commit(context, rendezvous)
    if any(request.native.iterdir()):
        publish_directory(context.store, request.native, context.uri("train", "native"), training.backend)
    return _publish(context, request.output, outcome)


def _validation_steps(training: Training, steps: int, rows: Path, validation_rows: Path) -> int:
    trained, held_out = read_rows(rows), read_rows(validation_rows)
    batch_tokens = sum(trained.lengths) / len(trained) * training.effective_batch_size
    return curve.validation_steps(training.eval_steps, steps, batch_tokens, sum(held_out.lengths[:VALIDATION_ROWS]))


def _agree_on_checkpoint(context: StageContext, rendezvous: Rendezvous, checkpoints: Checkpoints) -> Checkpoint | None:
    """The checkpoint from which all pods resume: the newest that the leader finds."""
    folder = context.work / "resume"
    newest = checkpoints.fetch_newest(folder) if context.group.is_leader else None
    if context.group.nodes > 1:
        context.progress.update(message="waiting for the other nodes")
        context.log.info("node rank %d of %d nodes", context.group.node_rank, context.group.nodes)
    step = rendezvous.join(newest.step if newest else None, context.stopping)
    if step is not None:
        context.log.info("resuming from the checkpoint of step %d", step)
    return newest or (checkpoints.fetch(step, folder) if step is not None else None)


def _publish(context: StageContext, adapter: Path, outcome: TrainOutcome) -> TrainResult:
    uri = context.uri("train", "adapter")
    manifest = publish_directory(context.store, adapter, uri, "adapter")
    training = TrainingStatus(
        steps=outcome.steps,
        kept_step=outcome.kept_step,
        stopped_early=outcome.stopped_early,
        loss=outcome.loss,
        verdict=curve.verdict(outcome.curve),
        curve=outcome.curve,
    )
    if training.verdict:
        context.log.info("%s The adapter of step %d is kept.", training.verdict, training.kept_step)
    return TrainResult(training=training, adapter_uri=uri, adapter_digest=manifest.digest)


def _wait_for_commit(context: StageContext, rendezvous: Rendezvous) -> TrainResult:
    """Waits until the leader has committed the stage: without the followers it could not train once more.

    Raises:
        TryAgain: the leader is lost before it has committed, or this pod was stopped.
    """
    while (result := context.find_result(TrainResult)) is None:
        if context.stopping.is_set():
            raise TryAgain(reasons.PREEMPTED, "The pod was stopped before the adapter was published.", RESTART_ADVICE)
        if rendezvous.lost.is_set():
            raise TryAgain(reasons.PEER_LOST, "The leader was lost before it published the adapter.", RESTART_ADVICE)
        rendezvous.lost.wait(COMMIT_POLL_SECONDS)
    return result


def _show_progress(context: StageContext, event: TrainingProgress) -> None:
    context.progress.update(
        percent=100 * event.step // event.steps,
        step=event.step,
        steps=event.steps,
        loss=event.loss,
        validation_loss=event.validation_loss,
        tokens_per_second=event.tokens_per_second,
        message="training",
    )
    context.log.info(
        "step %d/%d  loss %.4f  %.0f tokens/s", event.step, event.steps, event.loss, event.tokens_per_second
    )


PROGRAM: Final = StageProgram(run)
