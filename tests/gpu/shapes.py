"""Models of random weights in the shapes of known ones: what a step costs does not depend on what was learned."""

from pathlib import Path
from typing import Any, Final

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from tuneyard_trainer.model.layout import SINGLE
from tuneyard_trainer.weights.tensor_files import TensorWriter

SHAPES: Final[dict[str, dict[str, Any]]] = {
    # Llama 3.2 1B and Llama 3.1 8B.
    "1B": {
        "vocab_size": 128256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "tie_word_embeddings": True,
    },
    "8B": {
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "tie_word_embeddings": False,
    },
    # For a look at the programs themselves, on a machine without a GPU.
    "tiny": {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
}


def make_model(directory: Path, shape: str) -> Path:
    """Writes the model, tensor by tensor, into `directory`; returns it."""
    config = LlamaConfig(**SHAPES[shape], architectures=["LlamaForCausalLM"], dtype="bfloat16")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    directory.mkdir(parents=True)
    config.save_pretrained(directory)
    tensors = {name: ("BF16", tuple(parameter.shape)) for name, parameter in model.named_parameters()}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    with TensorWriter(directory / SINGLE, tensors) as writer:
        for name, (_, size) in tensors.items():
            values = torch.ones(size) if len(size) == 1 else torch.randn(size, device=device).mul_(0.02)
            writer.write(name, values.to(torch.bfloat16).cpu())
    return directory
