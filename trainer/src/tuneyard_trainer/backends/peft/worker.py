"""The worker of the peft backend: LoRA and QLoRA with transformers' Trainer.

A run is repeatable to the bit on a CPU: the order of the rows is a pure function (schedule.row_order), the number of
threads is fixed, and a checkpoint holds adapter, optimizer, scheduler and random state.
"""

import json
import os
import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from torch.utils.data import Subset
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, Trainer, TrainerCallback, TrainingArguments

from tuneyard_api import reasons
from tuneyard_api.contracts.requests import CheckpointWritten, TrainingProgress, TrainOutcome
from tuneyard_api.kinds.finetunejob import Training
from tuneyard_trainer.backends.peft.backend import PeftRequest
from tuneyard_trainer.backends.schedule import row_order
from tuneyard_trainer.data.columns import IGNORED, INPUT_IDS, LABELS, TokenizedRow, length
from tuneyard_trainer.data.shards import read_rows
from tuneyard_trainer.model.adaptable import ALL_LINEAR, check_target_modules
from tuneyard_trainer.model.layout import weight_files
from tuneyard_trainer.model.shape import local_shape
from tuneyard_trainer.runtime.errors import BadInput, DoesNotFit, TryAgain
from tuneyard_trainer.runtime.rendezvous import RESTART_ADVICE
from tuneyard_trainer.runtime.worker_main import emit, worker_main

REPORT_SECONDS = 2.0
NAME_SETS = ("target_modules", "target_parameters")
LOSS_WINDOW = 10  # steps whose mean loss is reported
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
    lengths = [length(row) for row in rows]
    order = row_order(lengths, request.steps, training.effective_batch_size, training.seed)
    model = adapted_model(request)
    callback = StageCallback([lengths[index] for index in order], training, request.stop_file)
    trainer = Trainer(
        model=model,
        args=training_arguments(request),
        train_dataset=Subset(rows, order),
        data_collator=COLLATORS[rows.columns],
        callbacks=[callback],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    _train(trainer, request.resume)
    if not trainer.is_local_process_zero():
        return None
    state = trainer.state
    if state.global_step == request.steps and trainer.is_world_process_zero():
        save_adapter(model, request.output, request.model_uri)
    return TrainOutcome(steps=state.global_step, loss=mean_loss(state.log_history))


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


# --- model ------------------------------------------------------------------------------------------------------------


def adapted_model(request: PeftRequest) -> PeftModel:
    """The base model with a new adapter. QLoRA holds the base in NF4 with double quantization (arXiv:2305.14314)."""
    training = request.training
    dtype = torch.bfloat16 if training.precision == "bf16" else torch.float32
    quantization = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
    on_gpu = torch.cuda.is_available()
    base = AutoModelForCausalLM.from_pretrained(
        request.model,
        dtype=dtype,
        quantization_config=quantization if training.method == "qlora" else None,
        device_map={"": int(os.environ.get("LOCAL_RANK", "0"))} if on_gpu else None,
        local_files_only=True,
    )
    base.config.use_cache = False
    if training.method == "qlora":
        base = prepare_model_for_kbit_training(base, use_gradient_checkpointing=training.gradient_checkpointing)
    elif training.gradient_checkpointing:
        base.enable_input_require_grads()
    return get_peft_model(base, LoraConfig(**request.lora_config, target_modules=target_modules(request)))


def target_modules(request: PeftRequest) -> str | list[str]:
    """The target_modules of LoraConfig.

    Raises:
        BadInput: a name is that of no module that can be adapted.
    """
    lora = request.training.lora
    check_target_modules(lora, local_shape(request.model, weight_files(request.model)), request.model_uri)
    return ALL_LINEAR if lora.target_modules == [ALL_LINEAR] else sorted(lora.target_modules)


def save_adapter(model: PeftModel, directory: Path, model_uri: str) -> None:
    """Writes adapter_model.safetensors and adapter_config.json, always the same bytes for the same weights."""
    model.save_pretrained(directory)
    (directory / "README.md").unlink(missing_ok=True)
    path = directory / "adapter_config.json"
    config: dict[str, Any] = json.loads(path.read_text()) | {"base_model_name_or_path": model_uri}
    # peft holds the names in sets, whose order differs between processes.
    config = {key: sorted(value) if value and key in NAME_SETS else value for key, value in config.items()}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


# --- Trainer ----------------------------------------------------------------------------------------------------------


def training_arguments(request: PeftRequest) -> TrainingArguments:
    on_gpu = torch.cuda.is_available()
    return TrainingArguments(
        **request.training_arguments,
        use_cpu=not on_gpu,
        ddp_backend="gloo" if request.devices > 1 and not on_gpu else None,
        dataloader_pin_memory=on_gpu,
    )


def collate(rows: Sequence[TokenizedRow]) -> dict[str, torch.Tensor]:
    """Pads a micro batch of chats to its longest row; padding is neither attended to nor supervised."""
    width = max(len(row[INPUT_IDS]) for row in rows)

    def padded(values: list[list[int]], filler: int) -> torch.Tensor:
        return torch.tensor([[*value, *[filler] * (width - len(value))] for value in values], dtype=torch.long)

    return {
        "input_ids": padded([row[INPUT_IDS] for row in rows], 0),
        "labels": padded([row[LABELS] for row in rows], IGNORED),
        "attention_mask": padded([[1] * len(row[INPUT_IDS]) for row in rows], 0),
    }


# A collator for each kind of example, found by the columns of its rows.
COLLATORS = {
    frozenset({INPUT_IDS, LABELS}): collate,
}


def mean_loss(history: list[dict[str, float]]) -> float | None:
    """The mean loss of the last steps. The history is part of a checkpoint, so a resumed run reports the same loss."""
    losses = [entry["loss"] for entry in history if "loss" in entry][-LOSS_WINDOW:]
    return sum(losses) / len(losses) if losses else None


class StageCallback(TrainerCallback):  # type: ignore[misc]
    """Reports progress, saves a checkpoint by the clock, and stops after the current step when the stop file exists."""

    def __init__(self, row_tokens: list[int], training: Training, stop_file: Path) -> None:
        self.batch = training.effective_batch_size
        self.row_tokens = row_tokens
        self.stop_file = stop_file
        self.save_every = training.checkpoints.every_minutes * 60
        self.saved_at = self.reported_at = self.step_started_at = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.saved_at = time.monotonic()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.step_started_at = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step >= state.max_steps:
            return
        stop = any_process(self.stop_file.exists())
        control.should_training_stop |= stop
        control.should_save |= stop or any_process(time.monotonic() - self.saved_at >= self.save_every)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.saved_at = time.monotonic()
        path = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        gather_random_states(path, args.process_index)
        if state.is_world_process_zero:
            emit(CheckpointWritten(step=state.global_step, path=path))
        elif state.is_local_process_zero:
            shutil.rmtree(path)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if logs is None or "loss" not in logs:
            return
        if logs["loss"] != logs["loss"] or logs["loss"] == float("inf"):
            raise BadInput(
                reasons.TRAINING_DIVERGED,
                f"The loss at step {state.global_step} is not a finite number.",
                "Lower training.learningRate, or set training.precision: fp32.",
            )
        now, last = time.monotonic(), state.global_step == state.max_steps
        if state.is_world_process_zero and (last or now - self.reported_at >= REPORT_SECONDS):
            self.reported_at = now
            tokens = sum(self.row_tokens[(state.global_step - 1) * self.batch : state.global_step * self.batch])
            emit(
                TrainingProgress(
                    step=state.global_step,
                    steps=state.max_steps,
                    loss=mean_loss(state.log_history) or logs["loss"],
                    tokens_per_second=tokens / max(now - self.step_started_at, 1e-6),
                )
            )


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


if __name__ == "__main__":
    worker_main(PeftRequest, fine_tune)
