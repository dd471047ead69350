"""What the workers of backends have in common whose training is a run of transformers' Trainer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tuneyard_api import reasons
from tuneyard_api.contracts.requests import TrainOutcome, TrainRequest
from tuneyard_trainer.backends import curve
from tuneyard_trainer.backends.peft.model import save_adapter
from tuneyard_trainer.backends.peft.validation import Validation
from tuneyard_trainer.data.columns import TokenizedRow
from tuneyard_trainer.data.shards import read_rows
from tuneyard_trainer.runtime.errors import BadInput, DoesNotFit


def check_gpus(wanted: int) -> None:
    """Raises BadInput when PyTorch sees fewer GPUs."""
    visible = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if visible < wanted:
        raise BadInput(
            reasons.GPU_NOT_VISIBLE,
            f"resources.gpus asks for {wanted} GPU(s), PyTorch {torch.__version__} sees {visible}",
            "Check the node's driver (PyTorch needs one for CUDA "
            f"{torch.version.cuda} or newer), resources.runtimeClassName (often nvidia) and the device plugin.",
        )


def held_out(request: TrainRequest) -> Sequence[TokenizedRow]:
    """The rows on which the run is validated."""
    return read_rows(request.validation_rows)[: request.validation_count] if request.validation_rows else []


def train(trainer: Any, resume: Path | None) -> None:
    """Raises DoesNotFit when the GPU's memory is used up."""
    try:
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    except torch.OutOfMemoryError as error:
        raise DoesNotFit(
            reasons.OUT_OF_MEMORY,
            f"The GPU ran out of memory at step {trainer.state.global_step + 1}: {str(error).splitlines()[0]}",
            "Lower training.microBatchSize or training.maxLength, set training.gradientCheckpointing: true or "
            "training.method: qlora, or use a GPU with more memory.",
        ) from error


def finish(request: TrainRequest, trainer: Any, validation: Validation) -> TrainOutcome:
    """Writes the adapter of the step that is kept, when the run is at its end."""
    state, training = trainer.state, request.training
    points = curve.curve(state.log_history)
    stopped_early = state.global_step < request.steps and curve.has_stalled(points, training.patience)
    finished = stopped_early or state.global_step == request.steps
    kept = state.global_step
    if finished and training.keep == "best" and (found := curve.best(points)):
        kept = found.step
        validation.restore()
    if finished and trainer.is_world_process_zero():
        save_adapter(trainer.model, request.output, request.model_uri)
    return TrainOutcome(
        steps=state.global_step,
        loss=curve.mean_loss(state.log_history),
        finished=finished,
        stopped_early=stopped_early,
        kept_step=kept,
        curve=points,
    )
