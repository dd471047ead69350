"""Models of random weights in the shapes of known ones: what a step costs does not depend on what was learned."""

import json
import re
from pathlib import Path
from typing import Any, Final

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from tuneyard_trainer.model.layout import SINGLE
from tuneyard_trainer.model.shape import HEADER_LENGTH
from tuneyard_trainer.weights.tensor_files import TensorWriter

LAYER: Final = re.compile(r"\.\d+\.")
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
    # Llama 3.3 70B.
    "70B": {
        "vocab_size": 128256,
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
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
    config, model = skeleton(shape)
    directory.mkdir(parents=True)
    config.save_pretrained(directory)
    tensors = {name: ("BF16", tuple(parameter.shape)) for name, parameter in model.named_parameters()}
    torch.manual_seed(0)
    with TensorWriter(directory / SINGLE, tensors) as writer:
        for name, (_, size) in tensors.items():
            writer.write(name, _values(size))
    return directory


def make_streamed_model(directory: Path, shape: str) -> Path:
    """Writes a model all of whose layers are the same bytes of its file, for models that are too large for a disk.

    Only a reader of single tensors takes it: the format of safetensors does not let tensors overlap.
    """
    config, model = skeleton(shape)
    directory.mkdir(parents=True)
    config.save_pretrained(directory)
    header: dict[str, Any] = {}
    places: dict[str, list[int]] = {}
    for name, parameter in model.named_parameters():
        same = LAYER.sub(".0.", name)
        end = max((bounds[1] for bounds in places.values()), default=0)
        places.setdefault(same, [end, end + 2 * parameter.numel()])
        header[name] = {"dtype": "BF16", "shape": list(parameter.shape), "data_offsets": places[same]}
    text = json.dumps(header).encode()
    torch.manual_seed(0)
    with (directory / SINGLE).open("wb") as file:
        file.write(len(text).to_bytes(HEADER_LENGTH, "little") + text)
        for name in places:
            file.write(_values(tuple(header[name]["shape"])).view(torch.uint8).numpy().data)
    return directory


def skeleton(shape: str) -> tuple[LlamaConfig, torch.nn.Module]:
    """The model without weights."""
    config = LlamaConfig(**SHAPES[shape], architectures=["LlamaForCausalLM"], dtype="bfloat16")
    with torch.device("meta"):
        return config, AutoModelForCausalLM.from_config(config)


def _values(size: tuple[int, ...]) -> torch.Tensor:
    """Ones for a norm, else small random numbers."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    values = torch.ones(size) if len(size) == 1 else torch.randn(size, device=device).mul_(0.02)
    return values.to(torch.bfloat16).cpu()
