"""The unsloth backend without torch: what it checks, and the settings of Unsloth and of transformers' Trainer."""

from typing import Final, Literal

from pydantic import Field, JsonValue

from tuneyard_api import reasons
from tuneyard_api.contracts.base import Contract
from tuneyard_api.contracts.requests import TrainOutcome, TrainRequest
from tuneyard_api.kinds.finetunejob import FineTuneJobSpec
from tuneyard_trainer.backends.base import Backend
from tuneyard_trainer.backends.schedule import micro_batch_size
from tuneyard_trainer.model.adaptable import ALL_LINEAR
from tuneyard_trainer.runtime.errors import BadInput
from tuneyard_trainer.runtime.worker import Program

ADAPTED: Final = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The linear layers that Unsloth's kernels adapt."""


class LoadedModel(Contract):
    """The arguments of FastLanguageModel.from_pretrained."""

    max_seq_length: int
    dtype: Literal["bfloat16", "float32"]
    load_in_4bit: bool
    random_state: int


class Adapter(Contract):
    """The arguments of FastLanguageModel.get_peft_model."""

    r: int
    lora_alpha: int
    lora_dropout: float
    target_modules: list[str]
    use_rslora: bool
    bias: Literal["none"] = "none"
    use_gradient_checkpointing: Literal["unsloth", False] = Field(
        description="unsloth: activations are kept in the memory of the host."
    )
    random_state: int


class UnslothRequest(TrainRequest):
    """Train a LoRA or QLoRA adapter with Unsloth."""

    loaded: LoadedModel
    adapter: Adapter
    training_arguments: dict[str, JsonValue] = Field(description="Of transformers.TrainingArguments.")


def check(spec: FineTuneJobSpec) -> None:
    """Raises BadInput for layers that Unsloth's kernels do not have."""
    training = spec.training
    micro_batch_size(training, spec.resources.devices)
    other = sorted(set(training.lora.target_modules) - {ALL_LINEAR, *ADAPTED})
    if other:
        raise BadInput(
            reasons.INVALID_SPEC,
            f"training.backend unsloth does not adapt {', '.join(other)}, which training.lora.targetModules names",
            f"Write [{ALL_LINEAR}], or names of: {', '.join(ADAPTED)}; or choose another training.backend.",
        )


def native_config(request: TrainRequest) -> UnslothRequest:
    training, lora = request.training, request.training.lora
    loaded = LoadedModel(
        max_seq_length=training.max_length,
        dtype="bfloat16" if training.precision == "bf16" else "float32",
        load_in_4bit=training.method == "qlora",
        random_state=training.seed,
    )
    adapter = Adapter(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(ADAPTED) if lora.target_modules == [ALL_LINEAR] else sorted(lora.target_modules),
        use_rslora=lora.variant == "rslora",
        use_gradient_checkpointing="unsloth" if training.gradient_checkpointing else False,
        random_state=training.seed,
    )
    arguments = training_arguments(request)
    return UnslothRequest(**dict(request), loaded=loaded, adapter=adapter, training_arguments=arguments)


def training_arguments(request: TrainRequest) -> dict[str, JsonValue]:
    training = request.training
    micro = micro_batch_size(training, request.devices)
    return {
        "output_dir": str(request.checkpoints),
        "max_steps": request.steps,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": training.effective_batch_size // micro,
        "train_sampling_strategy": "sequential",  # the data set is in the order of the run
        "learning_rate": training.learning_rate,
        "lr_scheduler_type": "constant_with_warmup" if training.scheduler == "constant" else training.scheduler,
        "warmup_steps": round(training.warmup_ratio * request.steps),
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "optim": "adamw_torch",
        "bf16": training.precision == "bf16",
        "seed": training.seed,
        "save_strategy": "no",  # the callback decides, by the clock
        "logging_strategy": "steps",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
    }


BACKEND: Final = Backend(
    worker=Program("tuneyard_trainer.backends.unsloth.worker", TrainOutcome, compiles=True),
    check=check,
    native_config=native_config,
)
