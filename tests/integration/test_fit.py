"""The estimate of the memory that a training needs, against what autograd keeps in transformers and PEFT."""

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from tuneyard_api.kinds.training import Training
from tuneyard_trainer.backends.peft.model import share_inputs
from tuneyard_trainer.model.fit import activation_bytes, adapter_parameters, sizes_of
from tuneyard_trainer.model.shape import ModelShape

CONFIG = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 512,
}
TOKENS = 1024


def kept(model: torch.nn.Module, dtype: torch.dtype) -> int:
    """Bytes that autograd keeps of one micro batch up to the last layer: each storage once, parameters not."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    storages: dict[int, Any] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            storages[storage.data_ptr()] = storage  # which keeps the address from being used again
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16),
    ):
        model(input_ids=torch.arange(TOKENS)[None] % 512, use_cache=False).last_hidden_state.sum()
    return sum(storage.nbytes() for storage in storages.values())


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_what_autograd_keeps(precision: str, checkpointing: bool) -> None:
    training = Training.model_validate({"precision": precision, "gradientCheckpointing": checkpointing})
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    base = LlamaForCausalLM(LlamaConfig(**CONFIG)).to(dtype)
    shape = ModelShape(CONFIG, {name: tuple(tensor.shape) for name, tensor in base.state_dict().items()})
    if checkpointing:
        base.enable_input_require_grads()
        base.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    model = get_peft_model(base, LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM")).train()
    share_inputs(model, training)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert adapter_parameters(training, shape) == trained

    sizes = sizes_of(shape)
    assert sizes is not None
    width = 2 if precision == "bf16" else 4
    estimated = activation_bytes(training, sizes, TOKENS, width)
    if checkpointing:  # one layer in full, which only the backward pass keeps
        inputs = TOKENS * sizes.hidden * (width + 4)  # of the layer, and of the last norm
        estimated -= activation_bytes(training, sizes._replace(layers=1), TOKENS, width) - inputs
    assert estimated == pytest.approx(kept(model.base_model.model.model, dtype), rel=0.1)
