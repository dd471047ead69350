"""The train stage: the backend trains an adapter or a model; checkpoints in the store let a stopped run resume."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from tuneyard_api import reasons
from tuneyard_api.contracts.requests import (
    CheckpointWritten,
    MetricsLogged,
    TrainingProgress,
    TrainOutcome,
    TrainRequest,
)
from tuneyard_api.contracts.results import ArtifactRef, TrainResult
from tuneyard_api.contracts.termination import TrainReport
from tuneyard_api.kinds.finetunejob_status import TrainingStatus
from tuneyard_api.kinds.training import FULL, Training
from tuneyard_store.artifact import publish_directory
from tuneyard_trainer.backends import backend_of, check_training, curve, guards
from tuneyard_trainer.backends.microbatch import with_micro_batch_size
from tuneyard_trainer.backends.rungs import Rungs
from tuneyard_trainer.backends.schedule import total_steps
from tuneyard_trainer.data.prepared import fetch_rows
from tuneyard_trainer.data.shards import read_rows
from tuneyard_trainer.model.layout import download_model, fresh, weight_files
from tuneyard_trainer.model.shape import local_shape
from tuneyard_trainer.runtime.checkpoints import Checkpoint, Checkpoints
from tuneyard_trainer.runtime.context import StageContext
from tuneyard_trainer.runtime.errors import BadInput, DoesNotFit, TryAgain
from tuneyard_trainer.runtime.rendezvous import RESTART_ADVICE, Rendezvous, rendezvous_of
from tuneyard_trainer.runtime.stage_runner import StageProgram
from tuneyard_trainer.runtime.worker import ProgressEvent, run_worker
from tuneyard_trainer.tracking import Tracking, tracked

COMMIT_POLL_SECONDS: Final = 2.0
VALIDATION_ROWS: Final = 200
"""Held-out rows that are validated during the run."""


def run(context: StageContext) -> TrainResult:
    """Trains, or resumes from the newest checkpoint.

    Where the memory does not suffice it goes on with settings that need less: see backends/ladder.py.

    Raises:
        TryAgain: the pod was stopped, the checkpoint of the last finished step is in the store; or another node is
            lost.
        BadInput: the GPU is not visible, the spec does not fit the model, or the run has diverged.
        DoesNotFit: out of memory, whatever was tried.
    """
    with rendezvous_of(context.group) as rendezvous:
        return _train(context, rendezvous)


def _train(context: StageContext, rendezvous: Rendezvous) -> TrainResult:
    check_training(context.spec)
    rows, validation_rows = fetch_rows(context, "train"), fetch_rows(context, "validation")
    steps = total_steps(context.spec.training, len(read_rows(rows)))
    checkpoints = Checkpoints(context)
    context.progress.update(percent=0, step=0, steps=steps)
    checkpoint = _agree_on_checkpoint(context, rendezvous, checkpoints)
    context.progress.update(message="fetching the model")
    model = download_model(context.store, context.spec.model.uri, context.work / "base")
    shape = local_shape(model, weight_files(model))
    context = replace(context, spec=with_micro_batch_size(context.spec, shape))
    request = _request(context, model, rows, validation_rows, steps)
    request = request.model_copy(update={"resume": checkpoint.directory if checkpoint else None})
    with tracked(context, request.events) as tracking:
        return _run(context, rendezvous, checkpoints, request, tracking)


def _request(context: StageContext, model: Path, rows: Path, validation_rows: Path, steps: int) -> TrainRequest:
    training, resources = context.spec.training, context.spec.resources
    stop_file = context.work / "stop"
    stop_file.unlink(missing_ok=True)
    return TrainRequest(
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
        checkpoints=context.work / "checkpoints",
        output=fresh(context.work / "output"),
        native=fresh(context.work / "native"),
        events=fresh(context.work / "events"),
        stop_file=stop_file,
    )


def _run(
    context: StageContext,
    rendezvous: Rendezvous,
    checkpoints: Checkpoints,
    request: TrainRequest,
    tracking: Tracking,
) -> TrainResult:
    backend = backend_of(request.training.backend)

    def on_event(event: ProgressEvent) -> None:
        match event:
            case CheckpointWritten():
                checkpoints.save(event.path, event.step)
                tracking.upload()
            case MetricsLogged():
                tracking.log(event)
            case TrainingProgress():
                _show_progress(context, event)

    def attempt(request: TrainRequest) -> TrainOutcome:
        return run_worker(
            context,
            backend.worker,
            backend.native_config(request),
            on_event=on_event,
            processes=max(1, context.spec.resources.gpus),
            rendezvous=rendezvous,
            stop_file=request.stop_file,
        )

    rungs = Rungs.of(context, backend, request.model, max(read_rows(request.rows).lengths))
    outcome = _climb(context, checkpoints, rungs, request, attempt)
    status = _status(outcome, rungs)
    if outcome.diverged:
        raise _diverged(context, request.output, outcome, tracking.end("FAILED").added_to(status))
    if not outcome.finished:
        raise _unfinished(context, checkpoints, outcome.steps, request.steps)
    if not context.group.is_leader:
        return _wait_for_commit(context, rendezvous)
    return _publish(context, request, tracking.end("FINISHED").added_to(status))


def _climb(
    context: StageContext,
    checkpoints: Checkpoints,
    rungs: Rungs,
    request: TrainRequest,
    attempt: Callable[[TrainRequest], TrainOutcome],
) -> TrainOutcome:
    """Trains on the present rung of the ladder, and on higher ones until the memory suffices.

    Raises:
        DoesNotFit: it does not suffice on the highest one.
    """
    context.progress.update(message="training")
    while True:
        try:
            outcome = attempt(rungs.rung.applied_to(request))
        except DoesNotFit as error:
            rungs.climb(error)
            newest = checkpoints.fetch_newest(fresh(context.work / "resume"))
            request = request.model_copy(update={"resume": newest.directory if newest else None})
        else:
            if outcome.finished:
                rungs.worked()
            return outcome


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


def _diverged(context: StageContext, output: Path, outcome: TrainOutcome, status: TrainingStatus) -> BadInput:
    """The error of a run that could not go on, after its last good weights were published."""
    message, kind = f"{outcome.diverged}", _kind(context)
    if any(output.iterdir()):
        uri = context.uri("train", "diverged")
        if context.group.is_leader:
            publish_directory(context.store, output, uri, kind)
        message += f". The {kind} of step {outcome.kept_step}, the last good one, is at {uri}"
    return BadInput(reasons.TRAINING_DIVERGED, message, guards.ADVICE, TrainReport.of_status(status))


def _unfinished(context: StageContext, checkpoints: Checkpoints, done: int, steps: int) -> TryAgain:
    return TryAgain(
        reasons.PREEMPTED if context.stopping.is_set() else reasons.PEER_LOST,
        f"Stopped after step {done} of {steps}; checkpoint: {checkpoints.uri(done)}",
        "Nothing to do: the next pod resumes from there.",
    )


def _kind(context: StageContext) -> str:
    return "model" if context.spec.training.method == FULL else "adapter"


def _publish(context: StageContext, request: TrainRequest, status: TrainingStatus) -> TrainResult:
    if any(request.native.iterdir()):
        publish_directory(context.store, request.native, context.uri("train", "native"), request.training.backend)
    kind = _kind(context)
    uri = context.uri("train", kind)
    manifest = publish_directory(context.store, request.output, uri, kind)
    published = ArtifactRef(uri=uri, digest=manifest.digest)
    training = status.model_copy(update={"size_bytes": manifest.size_bytes})
    if training.verdict:
        context.log.info("%s The %s of step %d is kept.", training.verdict, kind, training.kept_step)
    if kind == "model":
        return TrainResult(training=training, model=published)
    return TrainResult(training=training, adapter=published)


def _status(outcome: TrainOutcome, rungs: Rungs) -> TrainingStatus:
    return TrainingStatus(
        steps=outcome.steps,
        kept_step=outcome.kept_step,
        micro_batch_size=rungs.rung.training.given_micro_batch_size,
        stopped_early=outcome.stopped_early,
        loss=outcome.loss,
        verdict=curve.verdict(outcome.curve),
        curve=outcome.curve,
        rungs=rungs.taken,
        spikes=outcome.spikes,
    )


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
