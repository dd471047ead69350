"""A model of the first layers of a real one: same architecture, tokenizer and weights, much faster."""

import json
import re
import shutil
import struct
from pathlib import Path
from typing import Any

LAYER = re.compile(r"model\.layers\.(\d+)\.")
WEIGHTS = "model.safetensors"


def first_layers(model: Path, layers: int, to: Path) -> Path:
    """Copies the model directory `model` to `to` with only its first `layers` layers, in one weights file."""
    to.mkdir(parents=True)
    for path in model.iterdir():
        if (
            path.is_file()
            and path.suffix != ".safetensors"
            and not path.name.endswith((".index.json", "manifest.json"))
        ):
            shutil.copy(path, to / path.name)
    config = json.loads((model / "config.json").read_text())
    config["num_hidden_layers"] = layers
    if "layer_types" in config:
        config["layer_types"] = config["layer_types"][:layers]
    (to / "config.json").write_text(json.dumps(config, indent=2))
    write_safetensors(to / WEIGHTS, [tensor for tensor in read_model(model) if in_layers(tensor[0], layers)])
    return to


def in_layers(name: str, layers: int) -> bool:
    found = LAYER.match(name)
    return found is None or int(found[1]) < layers


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
