"""The worker of the peft backend: LoRA and QLoRA with transformers' Trainer.

A run is repeatable to the bit on a CPU: the order of the rows is a pure function (schedule.row_order), the number of
threads is fixed, and a checkpoint holds adapter, optimizer, scheduler, random state and the best adapter so far.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import PeftModel
from torch.utils.data import Subset
from transformers import Trainer, TrainingArguments

from tuneyard_api import reasons
from tuneyard_api.contracts.requests import TrainOutcome
from tuneyard_trainer.backends import curve
from tuneyard_trainer.backends.peft.backend import PeftRequest
from tuneyard_trainer.backends.peft.batches import on_device, summed_loss
from tuneyard_trainer.backends.peft.batching import PROBE_ROWS, Batching
from tuneyard_trainer.backends.peft.callback import StageCallback
from tuneyard_trainer.backends.peft.model import adapted_model, save_adapter
from tuneyard_trainer.backends.peft.validation import Validation
from tuneyard_trainer.backends.schedule import row_order
from tuneyard_trainer.data.columns import TokenizedRow
from tuneyard_trainer.data.shards import TokenizedRows, read_rows
from tuneyard_trainer.runtime.errors import BadInput, DoesNotFit, TryAgain
from tuneyard_trainer.runtime.rendezvous import RESTART_ADVICE
from tuneyard_trainer.runtime.worker_main import worker_main

# What Gloo and torch's rendezvous store write when another process is gone.
PEER_GONE = re.compile(r"Connection (closed|reset) by peer|Broken pipe|Connection was likely closed")


def fine_tune(request: PeftRequest) -> TrainOutcome | None:
    """Trains an adapter. The first process of each pod returns an outcome; the first process of all writes it."""
    training = request.training
    _check_gpus(request.gpus)
    torch.set_num_threads(request.threads or torch.get_num_threads())
    transformers.set_seed(training.seed)
    # Kernels without a deterministic form only warn: CUDA has some, the CPU has none that are used here.
    torch.use_deterministic_algorithms(True, warn_only=True)

    rows = read_rows(request.rows)
    model = adapted_model(request)
    shortest = sorted(range(len(rows)), key=rows.lengths.__getitem__)[:PROBE_ROWS]
    packing = training.packing and training.attention != "eager"
    batching = Batching.of(model, [rows[index] for index in shortest], packing)
    trainer = _trainer(request, model, rows, batching)
    _train(trainer, request.resume)
    if not trainer.is_local_process_zero():
        return None
    return _finish(request, trainer)


class AdapterTrainer(Trainer):  # type: ignore[misc]
    """Trainer with the loss of our batches."""

    def __init__(self, *args: Any, batching: Batching, **options: Any) -> None:
        super().__init__(*args, data_collator=batching.collate, **options)
        self.batching = batching

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """The loss of a micro batch as its part of the mean over all trained tokens of the step."""
        assert num_items_in_batch is not None, "Trainer counts the tokens of a batch with labels"  # noqa: S101
        loss = summed_loss(model, inputs, self.batching.with_some_logits) / num_items_in_batch
        return loss * self.accelerator.num_processes  # DDP takes the mean over the processes


def _trainer(request: PeftRequest, model: PeftModel, rows: TokenizedRows, batching: Batching) -> AdapterTrainer:
    training, arguments = request.training, training_arguments(request)
    lengths = rows.lengths
    batch, micro = training.effective_batch_size, arguments.per_device_train_batch_size
    order = row_order(lengths, request.steps, batch, training.seed, batch // micro if batching.is_packed else None)
    held_out = read_rows(request.validation_rows)[: request.validation_count] if request.validation_rows else []

    def loss_of(batch: Sequence[TokenizedRow]) -> torch.Tensor:
        tensors = on_device(batching.collate(batch), next(model.parameters()).device)
        return summed_loss(model, tensors, batching.with_some_logits)

    validation = Validation(model, held_out, micro, loss_of)
    callback = StageCallback([lengths[index] for index in order], request, validation)
    trainer = AdapterTrainer(
        model=model, args=arguments, train_dataset=Subset(rows, order), callbacks=[callback], batching=batching
    )
    callback.autocast = trainer.compute_loss_context_manager
    trainer.remove_callback(transformers.PrinterCallback)
    if request.resume:
        validation.load(request.resume)
    trainer.validation = validation
    return trainer


def _finish(request: PeftRequest, trainer: AdapterTrainer) -> TrainOutcome:
    """Writes the adapter when the run is at its end."""
    state, training = trainer.state, request.training
    points = curve.curve(state.log_history)
    stopped_early = state.global_step < request.steps and curve.has_stalled(points, training.patience)
    finished = stopped_early or state.global_step == request.steps
    kept = state.global_step
    if finished and training.keep == "best" and (found := curve.best(points)):
        kept = found.step
        trainer.validation.restore()
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


def _train(trainer: Trainer, resume: Path | None) -> None:
    """Raises DoesNotFit when the GPU's memory is used up, and TryAgain when another node is lost."""
    try:
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    except torch.OutOfMemoryError as error:
        raise DoesNotFit(
            reasons.OUT_OF_MEMORY,
            f"The GPU ran out of memory at step {trainer.state.global_step + 1}: {str(error).splitlines()[0]}",
            "Lower training.microBatchSize or training.maxLength, set training.gradientCheckpointing: true or "
            "training.method: qlora, or use a GPU with more memory.",
        ) from error
    except RuntimeError as error:
        if PEER_GONE.search(str(error)):
            lost = f"Another node is gone: {str(error).splitlines()[0]}"
            raise TryAgain(reasons.PEER_LOST, lost, RESTART_ADVICE) from error
        raise


def _check_gpus(wanted: int) -> None:
    visible = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if visible < wanted:
        raise BadInput(
            reasons.GPU_NOT_VISIBLE,
            f"resources.gpus asks for {wanted} GPU(s), PyTorch {torch.__version__} sees {visible}",
            "Check the node's driver (PyTorch needs one for CUDA "
            f"{torch.version.cuda} or newer), resources.runtimeClassName (often nvidia) and the device plugin; "
            "or set resources.gpus: 0 to train on the CPU.",
        )


def training_arguments(request: PeftRequest) -> TrainingArguments:
    on_gpu = torch.cuda.is_available()
    return TrainingArguments(
        **request.training_arguments,
        use_cpu=not on_gpu,
        ddp_backend="gloo" if request.devices > 1 and not on_gpu else None,
        dataloader_pin_memory=on_gpu,
    )


if __name__ == "__main__":
    worker_main(PeftRequest, fine_tune)
