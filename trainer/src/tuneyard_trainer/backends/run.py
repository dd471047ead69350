"""What the workers of backends have in common whose training is a run of transformers' Trainer."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from tuneyard_api import reasons
from tuneyard_api.contracts.requests import TrainOutcome, TrainRequest
from tuneyard_api.kinds.finetunejob_status import CurvePoint
from tuneyard_api.registry import BACKENDS
from tuneyard_trainer.backends import curve, guards
from tuneyard_trainer.backends.peft.memory import told_as_does_not_fit
from tuneyard_trainer.backends.peft.model import save
from tuneyard_trainer.backends.peft.validation import Validation
from tuneyard_trainer.data.columns import TokenizedRow
from tuneyard_trainer.data.shards import read_rows
from tuneyard_trainer.runtime.errors import BadInput, TryAgain
from tuneyard_trainer.runtime.rendezvous import RESTART_ADVICE

# What Gloo and torch's rendezvous store write when another process is gone.
PEER_GONE = re.compile(r"Connection (closed|reset) by peer|Broken pipe|Connection was likely closed")


def begin(request: TrainRequest) -> None:
    """Makes the run repeatable. Raises BadInput when PyTorch sees fewer GPUs than the spec asks for."""
    check_gpus(request)
    torch.set_num_threads(request.threads or torch.get_num_threads())
    transformers.set_seed(request.training.seed)
    # Kernels without a deterministic form only warn: CUDA has some, the CPU has none that are used here.
    torch.use_deterministic_algorithms(True, warn_only=True)
    # No kernel reads memory before it is written; filling it doubles the number of kernels.
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.backends.cuda.enable_cudnn_sdp(False)  # cuDNN builds a plan for each new length of a row


def check_gpus(request: TrainRequest) -> None:
    """Raises BadInput when PyTorch sees fewer GPUs than the spec asks for."""
    visible = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if visible < request.gpus:
        on_cpu = (
            "" if BACKENDS[request.training.backend].needs_gpu else "; or set resources.gpus: 0 to train on the CPU"
        )
        raise BadInput(
            reasons.GPU_NOT_VISIBLE,
            f"resources.gpus asks for {request.gpus} GPU(s), PyTorch {torch.__version__} sees {visible}",
            "Check the node's driver (PyTorch needs one for CUDA "
            f"{torch.version.cuda} or newer), resources.runtimeClassName (often nvidia) and the device plugin{on_cpu}.",
        )


def held_out(request: TrainRequest) -> Sequence[TokenizedRow]:
    """The rows on which the run is validated."""
    return read_rows(request.validation_rows)[: request.validation_count] if request.validation_rows else []


def train(trainer: Any, resume: Path | None) -> guards.Diverged | None:
    """Returns why the run could not go on, of which all processes know.

    Raises DoesNotFit when the memory is used up, and TryAgain when another node is lost."""
    try:
        with told_as_does_not_fit(lambda: f"at step {trainer.state.global_step + 1}"):
            trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    except guards.Diverged as diverged:
        return diverged
    except RuntimeError as error:
        if PEER_GONE.search(str(error)):
            lost = f"Another node is gone: {str(error).splitlines()[0]}"
            raise TryAgain(reasons.PEER_LOST, lost, RESTART_ADVICE) from error
        raise
    return None


def finish(
    request: TrainRequest, trainer: Any, validation: Validation, diverged: guards.Diverged | None
) -> TrainOutcome:
    """Writes adapter or model when the run is at its end, or cannot go on."""
    state, training = trainer.state, request.training
    points = curve.curve(state.log_history)
    stopped_early = state.global_step < request.steps and curve.has_stalled(points, training.patience)
    finished = not diverged and (stopped_early or state.global_step == request.steps)
    kept = _keep(request, trainer, validation, points, diverged) if finished or diverged else state.global_step
    return TrainOutcome(
        steps=state.global_step,
        loss=curve.mean_loss(state.log_history),
        finished=finished,
        stopped_early=stopped_early,
        kept_step=kept,
        curve=points,
        spikes=guards.spikes(state.log_history),
        diverged=str(diverged) if diverged else None,
    )


def _keep(
    request: TrainRequest,
    trainer: Any,
    validation: Validation,
    points: list[CurvePoint],
    diverged: guards.Diverged | None,
) -> int:
    """Writes the weights of the best step, or of the last one where they are good; returns the step."""
    step: int = trainer.state.global_step
    is_good = diverged is None or diverged.weights_are_good
    if request.training.keep == "best" and (found := curve.best(points)):
        step, is_good = found.step, True
        validation.restore()
    if is_good and trainer.is_world_process_zero():
        save(trainer.model, request)
    return step
