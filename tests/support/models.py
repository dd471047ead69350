"""Models in a store in memory, for the checks of prepare."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from support.memorystore import MemoryStore
from support.tinymodel import write_model
from tuneyard_api.kinds.training import Training
from tuneyard_trainer.model.base import BaseModel
from tuneyard_trainer.model.check import check_model

URI = "s3://models/tiny"

Files = dict[str, bytes]
Change = Callable[[Files], object]


def tiny_model(directory: Path, **config: Any) -> Files:
    """The files of a sound model."""
    made = write_model(directory / "tiny", **config)
    return {path.name: path.read_bytes() for path in made.iterdir()}


def check(files: Mapping[str, bytes], directory: Path, **training: Any) -> BaseModel:
    """Runs the checks of prepare on a model of these files; raises BadInput."""
    store = MemoryStore()
    store.objects = {f"{URI}/{name}": data for name, data in files.items()}
    given = Training.model_validate({"maxLength": 64} | training)
    return check_model(store, URI, directory / "fetched", given)


def with_json(name: str, **changes: Any) -> Change:
    """Changes fields of a JSON file; None removes one."""

    def change(files: Files) -> None:
        document = json.loads(files.get(name, b"{}")) | changes
        kept = {key: value for key, value in document.items() if value is not None}
        files[name] = json.dumps(kept).encode()

    return change


def replaced(name: str, data: bytes) -> Change:
    def change(files: Files) -> None:
        files[name] = data

    return change


def header_of(data: bytes) -> dict[str, Any]:
    length = int.from_bytes(data[:8], "little")
    header: dict[str, Any] = json.loads(data[8 : 8 + length])
    return header


def with_header(header: Mapping[str, Any], size: int) -> bytes:
    """A safetensors file with this header and `size` bytes of tensors."""
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(size)


def without_tensor(name: str) -> Change:
    return retensored(lambda tensors: tensors.pop(name))


def with_tensor(name: str, shape: list[int], dtype: str = "BF16") -> Change:
    return retensored(lambda tensors: tensors.update({name: {"dtype": dtype, "shape": shape}}))


def retensored(change: Callable[[dict[str, Any]], object]) -> Change:
    """Changes the tensors of model.safetensors; the offsets follow."""

    def apply(files: Files) -> None:
        tensors = header_of(files["model.safetensors"])
        change(tensors)
        files["model.safetensors"] = laid_out(tensors)

    return apply


BYTES = {"BF16": 2, "F16": 2, "F32": 4, "U8": 1, "I8": 1, "I32": 4, "F8_E4M3": 1}


def laid_out(tensors: Mapping[str, Any]) -> bytes:
    end = 0
    header = {}
    for name, tensor in tensors.items():
        begin = end
        count = BYTES[tensor["dtype"]]
        for size in tensor["shape"]:
            count *= size
        end += count
        header[name] = {"dtype": tensor["dtype"], "shape": tensor["shape"], "data_offsets": [begin, end]}
    return with_header(header, end)
