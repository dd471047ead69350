"""The worker of the peft backend: LoRA, QLoRA and full tuning with transformers' Trainer.

A run is repeatable to the bit on a CPU: the order of the rows is a pure function (schedule.row_order), the number of
threads is fixed, and a checkpoint holds weights, optimizer, scheduler, random state and the best weights so far.
"""

import re
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.utils.data import Subset
from transformers import Trainer, TrainingArguments

from tuneyard_api import reasons
from tuneyard_api.contracts.requests import CHUNKED_LOSS, OFFLOADED_OPTIMIZER, TrainOutcome
from tuneyard_api.kinds.finetunejob_status import CurvePoint
from tuneyard_trainer.backends import curve, guards
from tuneyard_trainer.backends.peft.backend import PeftRequest
from tuneyard_trainer.backends.peft.batching import PROBE_ROWS, Batching
from tuneyard_trainer.backends.peft.callback import Measured, StageCallback, leave_out_other_optimizer
from tuneyard_trainer.backends.peft.memory import OffloadedAdamW, told_as_does_not_fit
from tuneyard_trainer.backends.peft.model import Trainable, model_to_train, save
from tuneyard_trainer.backends.peft.objective import Likelihood, Objective, Preference
from tuneyard_trainer.backends.peft.spikes import StepRows
from tuneyard_trainer.backends.peft.validation import Validation
from tuneyard_trainer.backends.schedule import row_order
from tuneyard_trainer.data.shards import TokenizedRows, read_rows
from tuneyard_trainer.runtime.errors import BadInput, TryAgain
from tuneyard_trainer.runtime.rendezvous import RESTART_ADVICE
from tuneyard_trainer.runtime.worker_main import worker_main

# What Gloo and torch's rendezvous store write when another process is gone.
PEER_GONE = re.compile(r"Connection (closed|reset) by peer|Broken pipe|Connection was likely closed")


def fine_tune(request: PeftRequest) -> TrainOutcome | None:
    """Trains an adapter or a model. The first process of each pod returns an outcome; the first of all writes it.

    Raises:
        DoesNotFit: the memory does not suffice.
        BadInput: the model or the spec cannot be trained.
    """
    with told_as_does_not_fit(lambda: "before the first step"):
        trainer = _prepared(request)
    diverged = _train(trainer, request.resume)
    if not trainer.is_local_process_zero():
        return None
    return _finish(request, trainer, diverged)


def _prepared(request: PeftRequest) -> "AdapterTrainer":
    training = request.training
    _check_gpus(request.gpus)
    torch.set_num_threads(request.threads or torch.get_num_threads())
    transformers.set_seed(training.seed)
    # Kernels without a deterministic form only warn: CUDA has some, the CPU has none that are used here.
    torch.use_deterministic_algorithms(True, warn_only=True)

    rows = read_rows(request.rows)
    model = model_to_train(request)
    shortest = sorted(range(len(rows)), key=rows.lengths.__getitem__)[:PROBE_ROWS]
    packing = training.packing and training.attention != "eager"
    batching = Batching.of(model, [rows[index] for index in shortest], packing)
    if CHUNKED_LOSS in request.memory_savers:
        batching = batching.in_chunks(model, [rows[index] for index in shortest])
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
    held_out = read_rows(request.validation_rows)[: request.validation_count] if request.validation_rows else []

    validation = Validation(model, held_out, micro, objective)
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


def _finish(request: PeftRequest, trainer: AdapterTrainer, diverged: guards.Diverged | None) -> TrainOutcome:
    """Writes adapter or model when the run is at its end, or cannot go on."""
    state, training = trainer.state, request.training
    points = curve.curve(state.log_history)
    stopped_early = state.global_step < request.steps and curve.has_stalled(points, training.patience)
    finished = not diverged and (stopped_early or state.global_step == request.steps)
    kept = _keep(request, trainer, points, diverged) if finished or diverged else state.global_step
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
    request: PeftRequest, trainer: AdapterTrainer, points: list[CurvePoint], diverged: guards.Diverged | None
) -> int:
    """Writes the weights of the best step, or of the last one where they are good; returns the step."""
    if request.training.keep == "best" and (found := curve.best(points)):
        step, is_good = found.step, True
        trainer.validation.restore()
    else:
        step, is_good = trainer.state.global_step, diverged is None or diverged.weights_are_good
    if is_good and trainer.is_world_process_zero():
        save(trainer.model, request)
    return step


def _train(trainer: Trainer, resume: Path | None) -> guards.Diverged | None:
    """Returns why the run could not go on, of which all processes know.

    Raises DoesNotFit when the GPU's memory is used up, and TryAgain when another node is lost."""
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
