"""The peft backend without torch: what it checks, and the settings of transformers' Trainer and of PEFT."""

from typing import Final

from pydantic import Field, JsonValue

from tuneyard_api.contracts.requests import (
    CHUNKED_LOSS,
    OFFLOADED_OPTIMIZER,
    PAGED_OPTIMIZER,
    STREAMED_WEIGHTS,
    TrainOutcome,
    TrainRequest,
)
from tuneyard_api.kinds.finetunejob import FineTuneJobSpec
from tuneyard_api.kinds.training import Training
from tuneyard_trainer.backends.base import Backend
from tuneyard_trainer.backends.schedule import micro_batch_size
from tuneyard_trainer.runtime.worker import Program


class PeftRequest(TrainRequest):
    """Train with transformers' Trainer, a LoRA or QLoRA adapter with PEFT."""

    training_arguments: dict[str, JsonValue] = Field(
        description="Of transformers.TrainingArguments, without those that depend on the device."
    )
    lora_config: dict[str, JsonValue] = Field(description="Of peft.LoraConfig, without target_modules.")


def check(spec: FineTuneJobSpec) -> None:
    """Raises BadInput when the batch cannot be divided among the devices."""
    micro_batch_size(spec.training, spec.resources.devices)


def native_config(request: TrainRequest) -> PeftRequest:
    return PeftRequest(
        **dict(request),
        training_arguments=training_arguments(request),
        lora_config=lora_config(request.training),
    )


def training_arguments(request: TrainRequest) -> dict[str, JsonValue]:
    training = request.training
    micro = micro_batch_size(training, request.devices)
    constant = training.scheduler == "constant"
    return {
        "output_dir": str(request.checkpoints),
        "max_steps": request.steps,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": training.effective_batch_size // (micro * request.devices),
        "train_sampling_strategy": "sequential",  # the data set is in the order of the run
        "learning_rate": training.learning_rate,
        "lr_scheduler_type": "constant_with_warmup" if constant else training.scheduler,
        "warmup_steps": round(training.warmup_ratio * request.steps),
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "optim": "paged_adamw_8bit" if PAGED_OPTIMIZER in request.memory_savers else "adamw_torch",
        "bf16": training.precision == "bf16",
        "activation_checkpointing": training.gradient_checkpointing,
        "activation_checkpointing_kwargs": _checkpointing(request),
        "seed": training.seed,
        # Divide by the supervised tokens of the whole step, over all micro batches and devices.
        "average_tokens_across_devices": True,
        "ddp_find_unused_parameters": False,
        "save_strategy": "no",  # the callback decides, by the clock
        "logging_strategy": "steps",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
    }


def _checkpointing(request: TrainRequest) -> dict[str, JsonValue] | None:
    """Reentrant, a forward pass makes no graph: in that of the other form bitsandbytes keeps each layer's weights."""
    if not request.training.gradient_checkpointing:
        return None
    return {"use_reentrant": STREAMED_WEIGHTS in request.memory_savers}


def lora_config(training: Training) -> dict[str, JsonValue]:
    lora = training.lora
    return {
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "use_rslora": lora.variant == "rslora",
        "use_dora": lora.variant == "dora",
        "task_type": "CAUSAL_LM",
    }


BACKEND: Final = Backend(
    worker=Program("tuneyard_trainer.backends.peft.worker", TrainOutcome, reuses_memory=True),
    check=check,
    native_config=native_config,
    memory_savers=(CHUNKED_LOSS, PAGED_OPTIMIZER, OFFLOADED_OPTIMIZER, STREAMED_WEIGHTS),
)
