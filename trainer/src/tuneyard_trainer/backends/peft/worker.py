"""The worker of the peft backend: LoRA, QLoRA and full tuning with transformers' Trainer.

A run is repeatable to the bit on a CPU: the order of the rows is a pure function (schedule.row_order), the number of
threads is fixed, and a checkpoint holds weights, optimizer, scheduler, random state and the best weights so far.
"""

from typing import Any

import torch
import transformers
from torch.utils.data import Subset
from transformers import Trainer, TrainingArguments

from tuneyard_api.contracts.requests import CHUNKED_LOSS, OFFLOADED_OPTIMIZER, TrainOutcome
from tuneyard_trainer.backends.peft.backend import PeftRequest
from tuneyard_trainer.backends.peft.batching import PROBE_ROWS, Batching
from tuneyard_trainer.backends.peft.callback import Measured, StageCallback, leave_out_other_optimizer
from tuneyard_trainer.backends.peft.liger import accelerate_with_liger
from tuneyard_trainer.backends.peft.memory import OffloadedAdamW, told_as_does_not_fit
from tuneyard_trainer.backends.peft.model import Trainable, model_to_train, share_inputs
from tuneyard_trainer.backends.peft.objective import Likelihood, Objective, Preference
from tuneyard_trainer.backends.peft.precision import in_native_precision
from tuneyard_trainer.backends.peft.recompute import recompute_cheap_parts
from tuneyard_trainer.backends.peft.spikes import StepRows
from tuneyard_trainer.backends.peft.validation import Validation
from tuneyard_trainer.backends.run import begin, finish, held_out, train
from tuneyard_trainer.backends.schedule import row_order
from tuneyard_trainer.data.shards import TokenizedRows, read_rows
from tuneyard_trainer.runtime.worker_main import worker_main


def fine_tune(request: PeftRequest) -> TrainOutcome | None:
    """Trains an adapter or a model. The first process of each pod returns an outcome; the first of all writes it.

    Raises:
        DoesNotFit: the memory does not suffice.
        BadInput: the model or the spec cannot be trained.
    """
    request = in_native_precision(request)
    with told_as_does_not_fit(lambda: "before the first step"):
        trainer = _prepared(request)
    diverged = train(trainer, request.resume)
    if not trainer.is_local_process_zero():
        return None
    return finish(request, trainer, trainer.validation, diverged)


def _prepared(request: PeftRequest) -> "AdapterTrainer":
    training = request.training
    begin(request)
    rows = read_rows(request.rows)
    model = model_to_train(request)
    shortest = sorted(range(len(rows)), key=rows.lengths.__getitem__)[:PROBE_ROWS]
    probe = [rows[index] for index in shortest]
    accelerate_with_liger(model, probe, request)
    packing = training.packs and training.attention != "eager"
    batching = Batching.of(model, probe, packing)
    if CHUNKED_LOSS in request.memory_savers:
        batching = batching.in_chunks(model, probe)
    share_inputs(model, training)
    recompute_cheap_parts(model, training)
    leave_out_other_optimizer(request)
    objective = Preference(batching, training.dpo.beta) if training.dpo else Likelihood(batching)
    return _trainer(request, model, rows, objective)


class AdapterTrainer(Trainer):  # type: ignore[misc]
    """Trainer with our objective."""

    def __init__(self, *args: Any, objective: Objective, pairs: int, **options: Any) -> None:
        super().__init__(*args, data_collator=objective.collate, **options)
        self.objective = objective
        self.pairs = pairs
        self._step_loss: list[torch.Tensor] = []
        self._gradient_norm: torch.Tensor | float = 0.0

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """The loss of a micro batch as its part of the mean over all trained tokens, or pairs, of the step."""
        assert num_items_in_batch is not None, "Trainer counts the tokens of a batch with labels"  # noqa: S101
        items = self.pairs if isinstance(self.objective, Preference) else num_items_in_batch
        loss = self.objective.summed(model, inputs).loss / items
        loss = loss * self.accelerator.num_processes  # DDP takes the mean over the processes
        self._step_loss.append(loss.detach())
        return loss

    def _clip_grad_norm(self, model: torch.nn.Module) -> torch.Tensor | float:
        self._gradient_norm = super()._clip_grad_norm(model)
        return self._gradient_norm

    def measured(self) -> Measured:
        """The loss of the step, in nats per trained token over all processes, and its gradient's norm."""
        loss = torch.stack(self._step_loss).sum()
        self._step_loss = []
        return Measured(self.accelerator.reduce(loss, "mean").item(), float(self._gradient_norm))


def _trainer(request: PeftRequest, model: Trainable, rows: TokenizedRows, objective: Objective) -> AdapterTrainer:
    training, arguments = request.training, training_arguments(request)
    lengths = rows.lengths
    batch, micro = training.effective_batch_size, arguments.per_device_train_batch_size
    order = row_order(
        lengths, request.steps, batch, training.seed, batch // micro if objective.batching.is_packed else None
    )
    validation = Validation(model, held_out(request), micro, objective)
    step_rows = StepRows(rows, order, batch, objective, model)
    callback = StageCallback([lengths[index] for index in order], request, validation, step_rows)
    trainer = AdapterTrainer(
        model=model,
        args=arguments,
        train_dataset=Subset(rows, order),
        callbacks=[callback],
        objective=objective,
        pairs=batch,
        optimizer_cls_and_kwargs=_optimizer(request),
    )
    callback.autocast = trainer.compute_loss_context_manager
    callback.measured = trainer.measured
    trainer.remove_callback(transformers.PrinterCallback)
    if request.resume:
        validation.load(request.resume)
    trainer.validation = validation
    return trainer


def _optimizer(request: PeftRequest) -> tuple[type[torch.optim.Optimizer], dict[str, Any]] | None:
    """None: the one that the training arguments name."""
    if OFFLOADED_OPTIMIZER not in request.memory_savers:
        return None
    return OffloadedAdamW, {"lr": request.training.learning_rate}


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
