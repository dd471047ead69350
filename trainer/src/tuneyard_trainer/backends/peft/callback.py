"""What happens at each step of a run: progress, validation, checkpoints, and the end."""

import math
import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import TrainerCallback
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME

from tuneyard_api import reasons
from tuneyard_api.contracts.requests import CheckpointWritten, TrainingProgress, TrainRequest
from tuneyard_trainer.backends import curve, guards
from tuneyard_trainer.backends.peft.backend import PeftRequest
from tuneyard_trainer.backends.peft.spikes import StepRows
from tuneyard_trainer.backends.peft.validation import Validation
from tuneyard_trainer.backends.scalars import Scalars
from tuneyard_trainer.runtime.errors import BadInput
from tuneyard_trainer.runtime.worker_main import emit

REPORT_SECONDS = 2.0
OPTIMIZER_KIND = "optimizer.txt"
"""In a checkpoint: the name of the optimizer, as TrainingArguments has it, that wrote the state there."""


class Measured(NamedTuple):
    """What is known of a step before its update is made, over all processes."""

    loss: float
    gradient_norm: float


class StageCallback(TrainerCallback):  # type: ignore[misc]
    """Reports progress, validates, saves checkpoints by the clock, ends the run early, and stops one that diverges.

    A run ends early after the step at which the stop file exists, or the validation loss has stalled.
    """

    def __init__(
        self, row_tokens: list[int], request: TrainRequest, validation: Validation, step_rows: StepRows | None = None
    ) -> None:
        self.request = request
        self.batch = request.training.effective_batch_size
        self.row_tokens = row_tokens
        self.validation = validation
        self.step_rows = step_rows
        self.measured: Callable[[], Measured] | None = None
        """Of a Trainer that tells it; what goes wrong in a run of another one is told when it is logged."""
        self.autocast: Callable[[], AbstractContextManager[object]] = nullcontext
        self.save_every = request.training.checkpoints.every_minutes * 60
        self.patience = request.training.patience
        self.scalars: Scalars | None = None
        """Of the process that reports."""
        self.saved_at = self.reported_at = self.step_started_at = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, lr_scheduler: Any = None, **_: Any) -> None:
        if self.request.resume and not (self.request.resume / OPTIMIZER_NAME).exists():
            # Trainer restores the schedule only together with the optimizer.
            lr_scheduler.load_state_dict(torch.load(self.request.resume / SCHEDULER_NAME, weights_only=True))
        if state.is_world_process_zero:
            self.scalars = Scalars(self.request.events, state.global_step)
        if state.global_step == 0:
            self._validate(state)
        self.saved_at = time.monotonic()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.step_started_at = time.monotonic()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Raises Diverged before an update that would destroy the weights; names the rows of a loss that stands out."""
        if self.measured is None or self.step_rows is None:
            return
        step, log = state.global_step + 1, state.log_history
        loss, norm = self.measured()
        if problem := guards.divergence(step, loss, norm, log):
            raise guards.Diverged(problem)
        usual = guards.usual_loss(log)
        if usual is not None and guards.is_spike(loss, log):
            spike = self.step_rows.spike(step, loss, usual, self.autocast)
            log.extend(guards.spike_entries(spike))
            if state.is_world_process_zero:
                print(guards.told(spike))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        is_last = state.global_step >= state.max_steps
        if is_last or state.global_step % self.request.validation_steps == 0:
            self._validate(state)
        if is_last:
            return
        if self.patience is not None and curve.has_stalled(curve.curve(state.log_history), self.patience):
            control.should_training_stop = True
            return
        stop = any_process(self.request.stop_file.exists())
        control.should_training_stop |= stop
        control.should_save |= stop or any_process(time.monotonic() - self.saved_at >= self.save_every)

    def _validate(self, state: Any) -> None:
        """Logs the validation loss, and keeps the adapter of the best step."""
        if not self.validation:
            return
        loss, accuracy = self.validation.measure(self.autocast)
        if not math.isfinite(loss):
            problem = f"The validation loss at step {state.global_step} is not a finite number"
            if self.measured is None:
                raise BadInput(reasons.TRAINING_DIVERGED, problem, guards.ADVICE)
            raise guards.Diverged(problem, weights_are_good=False)
        if self.scalars:
            self.scalars.log(state.global_step, {"eval/loss": loss, "eval/preference_accuracy": accuracy})
        entry = {"step": state.global_step, "validation_loss": loss}
        state.log_history.append(entry if accuracy is None else entry | {"preference_accuracy": accuracy})
        points = curve.curve(state.log_history)
        if self.request.training.keep == "best" and curve.best(points) is points[-1]:
            self.validation.keep()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.saved_at = time.monotonic()
        path = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        gather_random_states(path, args.process_index)
        if state.is_world_process_zero:
            self.validation.save(path)
            (path / OPTIMIZER_KIND).write_text(str(getattr(args.optim, "value", args.optim)))
            if self.scalars:
                self.scalars.flush()
            emit(CheckpointWritten(step=state.global_step, path=path))
        elif state.is_local_process_zero:
            shutil.rmtree(path)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if logs is None or "loss" not in logs:
            return
        if not math.isfinite(logs["loss"]):
            problem = f"The loss of step {state.global_step} is not a finite number"
            raise BadInput(reasons.TRAINING_DIVERGED, problem, guards.ADVICE)
        if not self.scalars:
            return
        now, last = time.monotonic(), state.global_step == state.max_steps
        tokens = sum(self.row_tokens[(state.global_step - 1) * self.batch : state.global_step * self.batch])
        speed = tokens / max(now - self.step_started_at, 1e-6)
        named = {f"train/{name}": logs.get(name) for name in ("loss", "grad_norm", "learning_rate")}
        self.scalars.log(state.global_step, named | {"train/tokens_per_second": speed})
        if last or now - self.reported_at >= REPORT_SECONDS:
            self.reported_at = now
            emit(
                TrainingProgress(
                    step=state.global_step,
                    steps=state.max_steps,
                    validation_loss=_last_validation(state.log_history),
                    loss=curve.mean_loss(state.log_history) or logs["loss"],
                    tokens_per_second=speed,
                )
            )

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.scalars:
            self.scalars.close()


def leave_out_other_optimizer(request: PeftRequest) -> None:
    """Removes the optimizer's state from a checkpoint that another kind of optimizer has written."""
    if request.resume is None or not (kind := request.resume / OPTIMIZER_KIND).exists():
        return
    if kind.read_text() != request.training_arguments["optim"]:
        (request.resume / OPTIMIZER_NAME).unlink(missing_ok=True)
        print("The optimizer begins without moments, because it is another one than before.")


def _last_validation(log: list[dict[str, float]]) -> float | None:
    return next((entry["validation_loss"] for entry in reversed(log) if "validation_loss" in entry), None)


def gather_random_states(checkpoint: Path, process: int) -> None:
    """Collects the random states of all processes in the checkpoint of process 0; the nodes share no disk."""
    if not torch.distributed.is_initialized():
        return
    states: list[bytes] = [b""] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(states, (checkpoint / f"rng_state_{process}.pth").read_bytes())
    if process == 0:
        for index, state in enumerate(states):
            (checkpoint / f"rng_state_{index}.pth").write_bytes(state)


def any_process(flag: bool) -> bool:
    """Whether the flag is set in any process, so that all of them save and stop at the same step."""
    if not torch.distributed.is_initialized():
        return flag
    votes = torch.tensor(int(flag), device="cuda" if torch.cuda.is_available() else "cpu")
    torch.distributed.all_reduce(votes, op=torch.distributed.ReduceOp.MAX)
    return bool(votes.item())
