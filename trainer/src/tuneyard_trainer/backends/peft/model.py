"""The model of the peft backend: the base model, with a new adapter unless all of it is trained; and its files."""

import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any, TypeAlias

import torch
import transformers
from bitsandbytes.nn import Linear4bit
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel
from transformers.utils import is_flash_attn_2_available

from tuneyard_api import reasons
from tuneyard_api.contracts.requests import STREAMED_WEIGHTS, TrainRequest
from tuneyard_api.kinds.training import FULL, Training
from tuneyard_trainer.backends.peft.backend import PeftRequest
from tuneyard_trainer.backends.peft.streaming import streamed_model
from tuneyard_trainer.model.adaptable import ALL_LINEAR, check_target_modules, shares_inputs
from tuneyard_trainer.model.layout import copy_config_files, declare_bfloat16, fresh, weight_files
from tuneyard_trainer.model.shape import local_shape
from tuneyard_trainer.runtime.errors import BadInput, blamed_on

NAME_SETS = ("target_modules", "target_parameters")

Trainable: TypeAlias = PeftModel | PreTrainedModel
"""A base model with an adapter, or a model of which every parameter is trained."""


def base_of(model: Trainable) -> Any:
    """The model of transformers."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def model_to_train(request: PeftRequest) -> Trainable:
    """The base model, with a new adapter or with every parameter to train.

    QLoRA holds the base in NF4 with double quantization (arXiv:2305.14314). Parameters that are trained are held in
    float32, and computed in the precision of the spec: an update is often too small for bfloat16 (arXiv:1710.03740).
    """
    training = request.training
    base = _base_model(request)
    if training.method == FULL:
        return base
    if training.method == "qlora":
        _keep_layout(base)
        base = prepare_model_for_kbit_training(base, use_gradient_checkpointing=training.gradient_checkpointing)
    elif training.gradient_checkpointing:
        base.enable_input_require_grads()
    return get_peft_model(base, LoraConfig(**request.lora_config, target_modules=target_modules(request)))


def _base_model(request: PeftRequest) -> PreTrainedModel:
    training = request.training
    dtype = torch.bfloat16 if training.precision == "bf16" else torch.float32
    quantization = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
    if STREAMED_WEIGHTS in request.memory_savers:
        return streamed_model(
            request.model,
            request.model_uri,
            quantization if training.method == "qlora" else None,
            fresh(request.checkpoints.parent / "streamed"),
            dtype=dtype,
            attn_implementation=attention(training),
        )
    on_gpu = torch.cuda.is_available()
    cannot = f"transformers {transformers.__version__} cannot load the model at {request.model_uri}"
    with blamed_on(
        cannot, reasons.INVALID_MODEL, "Load it with AutoModelForCausalLM.from_pretrained to see the cause."
    ):
        base, loaded = AutoModelForCausalLM.from_pretrained(
            request.model,
            dtype=torch.float32 if training.method == FULL else dtype,
            attn_implementation=attention(training),
            quantization_config=quantization if training.method == "qlora" else None,
            device_map={"": int(os.environ.get("LOCAL_RANK", "0"))} if on_gpu else None,
            local_files_only=True,
            output_loading_info=True,
        )
    check_loaded(loaded["missing_keys"], request.model_uri)
    base.config.use_cache = False
    return base


def _keep_layout(base: PreTrainedModel) -> None:
    """On CPUs with AVX-512 BF16 bitsandbytes packs NF4 weights anew at each validation, and unpacks them with another
    rounding of their scales: the base would change in the course of a run, and not the same way after a restart."""
    for module in base.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def share_inputs(model: Trainable, training: Training) -> None:
    """Gives the layers of LoRA their inputs in bfloat16, as autocast computes with them: PEFT copies each of them to
    float32, and autocast back to the same bits, so that every layer keeps a copy. Without autocast the model cannot
    run from now on.
    """
    if training.precision != "bf16" or not shares_inputs(training):
        return
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module.cast_input_dtype_enabled = False


def check_loaded(missing: Collection[str], model_uri: str) -> None:
    """Raises BadInput when parameters were not in the files: transformers has filled them with random numbers."""
    if missing:
        raise BadInput(
            reasons.MODEL_WEIGHTS_MISSING,
            f"The weights of the model at {model_uri} lack {', '.join(sorted(missing)[:3])} ({len(missing)} in all)",
            "Upload all *.safetensors files of one version of the model, with the config.json that goes with them.",
        )


def attention(training: Training) -> str | None:
    """The attention of transformers; None: the model's default.

    Raises:
        BadInput: FlashAttention 2 is asked for, and this machine has it not.
    """
    has_flash = torch.cuda.is_available() and is_flash_attn_2_available()
    if training.attention == "auto":
        return "flash_attention_2" if has_flash else None
    if training.attention == "flash_attention_2" and not has_flash:
        raise BadInput(
            reasons.INVALID_SPEC,
            "training.attention: flash_attention_2 needs a GPU and the package flash-attn in the trainer image",
            "Write auto or sdpa, or add flash-attn to the image.",
        )
    return training.attention


def target_modules(request: PeftRequest) -> str | list[str]:
    """The target_modules of LoraConfig.

    Raises:
        BadInput: a name is that of no module that can be adapted.
    """
    lora = request.training.lora
    check_target_modules(lora, local_shape(request.model, weight_files(request.model)), request.model_uri)
    return ALL_LINEAR if lora.target_modules == [ALL_LINEAR] else sorted(lora.target_modules)


def save(model: Trainable, request: TrainRequest) -> None:
    """Writes what was trained into request.output: an adapter, or a model in bfloat16."""
    if isinstance(model, PeftModel):
        save_adapter(model, request.output, request.model_uri)
        return
    model.to(torch.bfloat16).save_pretrained(request.output)
    copy_config_files(request.model, request.output)  # the user's own, not those that transformers makes of them
    declare_bfloat16(request.output)


def save_adapter(model: PeftModel, directory: Path, model_uri: str) -> None:
    """Writes adapter_model.safetensors and adapter_config.json, always the same bytes for the same weights."""
    model.save_pretrained(directory)
    (directory / "README.md").unlink(missing_ok=True)
    path = directory / "adapter_config.json"
    config: dict[str, Any] = json.loads(path.read_text()) | {"base_model_name_or_path": model_uri}
    # peft holds the names in sets, whose order differs between processes.
    config = {key: sorted(value) if value and key in NAME_SETS else value for key, value in config.items()}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
