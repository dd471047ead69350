"""A model of the first layers and tokens of a real one: same architecture and weights, a tenth of the work."""

import json
import re
import shutil
import struct
from pathlib import Path
from typing import Any

LAYER = re.compile(r"model\.layers\.(\d+)\.")
WEIGHTS = "model.safetensors"
EMBEDDINGS = "model.embed_tokens.weight"  # tied: they are the output layer, too
LAYERS, TOKENS = 2, 8192


def small_model(model: Path, to: Path) -> Path:
    """Copies the model directory `model` to `to` with only its first LAYERS layers and TOKENS tokens."""
    to.mkdir(parents=True)
    for path in model.iterdir():
        if path.name in ("chat_template.jinja", "generation_config.json", "tokenizer_config.json"):
            shutil.copy(path, to / path.name)
    config = json.loads((model / "config.json").read_text())
    config |= {"num_hidden_layers": LAYERS, "vocab_size": TOKENS}
    (to / "config.json").write_text(json.dumps(config, indent=2))
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    (to / "tokenizer.json").write_text(json.dumps(tokenizer | {"model": first_tokens(tokenizer["model"])}))
    tensors = (first_rows(tensor) for tensor in read_model(model) if in_layers(tensor[0]))
    write_safetensors(to / WEIGHTS, [*tensors])
    return to


def first_tokens(model: dict[str, Any]) -> dict[str, Any]:
    """A byte-pair encoding without the tokens that the longest merges make; these come last."""
    vocabulary = {token: number for token, number in model["vocab"].items() if number < TOKENS}
    return model | {"vocab": vocabulary, "merges": [pair for pair in model["merges"] if "".join(pair) in vocabulary]}


def first_rows(tensor: "Tensor") -> "Tensor":
    """The embeddings of the first tokens; every other tensor as it is."""
    name, about, data = tensor
    if name != EMBEDDINGS:
        return tensor
    rows, width = about["shape"]
    return name, about | {"shape": [TOKENS, width]}, data[: len(data) // rows * TOKENS]


def in_layers(name: str) -> bool:
    found = LAYER.match(name)
    return found is None or int(found[1]) < LAYERS


Tensor = tuple[str, dict[str, Any], bytes]


def read_model(model: Path) -> list[Tensor]:
    return [tensor for path in sorted(model.glob("*.safetensors")) for tensor in read_safetensors(path)]


def read_safetensors(path: Path) -> list[Tensor]:
    """The (name, {dtype, shape}, data) of each tensor. A file has 8 bytes of header length, a JSON header, the data."""
    raw = path.read_bytes()
    start = 8 + struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8:start])
    header.pop("__metadata__", None)
    return [
        (name, {"dtype": about["dtype"], "shape": about["shape"]}, raw[start + begin : start + end])
        for name, about in header.items()
        for begin, end in [about["data_offsets"]]
    ]


def write_safetensors(path: Path, tensors: list[Tensor]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, about, data in tensors:
        header[name] = about | {"data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data for _, _, data in tensors))
