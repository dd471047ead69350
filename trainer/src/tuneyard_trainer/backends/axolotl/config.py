"""Axolotl's config.yaml of a job, as a pure function of the request and the lengths of the rows.

It is complete: beside the folder `base` with the model, `accelerate launch -m axolotl.cli.train config.yaml` trains it.
"""

import math
from collections.abc import Sequence
from typing import Any, Final

from tuneyard_api.contracts.requests import TrainRequest
from tuneyard_api.kinds.training import Training
from tuneyard_trainer.backends.axolotl.packing import plan
from tuneyard_trainer.backends.schedule import micro_batch_size
from tuneyard_trainer.model.adaptable import ALL_LINEAR

BASE: Final = "base"
TRAIN_FILE: Final = "train.parquet"
VALIDATION_FILE: Final = "validation.parquet"

Config = dict[str, Any]


def axolotl_config(request: TrainRequest, lengths: Sequence[int]) -> Config:
    """The settings by their names in Axolotl's documentation, with training.overrides.

    Args:
        lengths: of the training rows, in tokens.
    """
    training = request.training
    return {
        "base_model": BASE,
        "model_type": "AutoModelForCausalLM",
        **_data(request),
        **_adapter(training),
        **_batches(request, lengths),
        **_schedule(request, len(lengths)),
        **_device(request),
        "output_dir": "out",
        "save_strategy": "no",  # the adapter is written at the end
        "logging_steps": 1,
        "seed": training.seed,
        **(training.overrides or {}),
    }


def _data(request: TrainRequest) -> Config:
    """Rows that are tokenized: Axolotl takes those with input_ids, attention_mask and labels as they are."""
    config: Config = {
        "datasets": [_file(TRAIN_FILE)],
        "val_set_size": 0,
        "dataset_prepared_path": "prepared",
        "shuffle_merged_datasets": False,  # the file has the rows in the order of the seed
    }
    if request.validation_rows is not None:
        config |= {
            "test_datasets": [_file(VALIDATION_FILE)],
            "eval_steps": request.validation_steps,
            "eval_sample_packing": False,
        }
    return config


def _file(name: str) -> Config:
    return {"path": name, "ds_type": "parquet", "type": ""}


def _adapter(training: Training) -> Config:
    lora = training.lora
    all_linear = lora.target_modules == [ALL_LINEAR]
    return {
        "adapter": training.method,
        "load_in_4bit": training.method == "qlora",
        "lora_r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        **({"lora_target_linear": True} if all_linear else {"lora_target_modules": sorted(lora.target_modules)}),
        "peft_use_rslora": lora.variant == "rslora",
    }


def _batches(request: TrainRequest, lengths: Sequence[int]) -> Config:
    training, devices = request.training, request.devices
    if training.packs:
        packing = plan(training, lengths, devices)
        return {
            "sequence_len": packing.sequence_len,
            "sample_packing": True,
            # In the order of the file, so that a resumed run sees the same sequences.
            "sample_packing_sequentially": True,
            "curriculum_sampling": True,
            "pad_to_sequence_len": False,
            "micro_batch_size": 1,
            "gradient_accumulation_steps": packing.sequences,
            "eval_batch_size": 1,
        }
    micro = micro_batch_size(training, devices)
    return {
        "sequence_len": training.max_length,
        "sample_packing": False,
        "pad_to_sequence_len": False,
        "micro_batch_size": micro,
        "gradient_accumulation_steps": training.effective_batch_size // (micro * devices),
        "eval_batch_size": micro,
    }


def _schedule(request: TrainRequest, rows: int) -> Config:
    training, steps = request.training, request.steps
    return {
        "max_steps": steps,
        "num_epochs": max(1, math.ceil(steps * training.effective_batch_size / rows)),
        "optimizer": "adamw_torch",
        "learning_rate": training.learning_rate,
        "lr_scheduler": "constant_with_warmup" if training.scheduler == "constant" else training.scheduler,
        "warmup_steps": round(training.warmup_ratio * steps),
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
    }


def _device(request: TrainRequest) -> Config:
    """Axolotl computes in bfloat16 on GPUs alone, and its LoRA kernels are Triton's: a CPU has neither."""
    training = request.training
    on_gpu = request.gpus > 0
    kernels: Config = {} if on_gpu else {f"lora_{part}_kernel": False for part in ("mlp", "qkv", "o")}
    return {
        "bf16": on_gpu and training.precision == "bf16",
        "fp16": False,
        "tf32": False,
        "attn_implementation": "sdpa" if training.attention == "auto" else training.attention,
        "gradient_checkpointing": training.gradient_checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False} if training.gradient_checkpointing else None,
        **kernels,
    }
