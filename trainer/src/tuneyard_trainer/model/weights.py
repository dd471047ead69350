"""The weight files of a model in the store: of each the header is read, never the weights."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

from tuneyard_api import reasons
from tuneyard_store.store import ObjectInfo, Store
from tuneyard_trainer.model.layout import INDEX, SINGLE
from tuneyard_trainer.model.safetensors import InvalidHeader, Truncated, header_bytes, parse_header
from tuneyard_trainer.model.shape import TensorInfo
from tuneyard_trainer.runtime.errors import BadInput
from tuneyard_trainer.runtime.userfiles import mistaken, read_object

# One request reads the header of a shard of most models.
FIRST_BYTES: Final = 64 * 2**10
READERS: Final = 8
UPLOAD_ADVICE: Final = "Upload the file again, and compare its size and SHA-256 with those where it comes from."

Shards = dict[str, dict[str, TensorInfo]]
"""The tensors of each weight file, by the names of file and tensor."""


def read_shards(store: Store, files: Mapping[str, ObjectInfo], directory: Path, uri: str) -> Shards:
    """The headers of the weight files that belong to the model.

    Args:
        files: the model's files by their names.
        directory: has the index, if the model has one.

    Raises:
        BadInput: a file or a tensor of the index is missing, or a file is broken.
    """
    index = read_index(directory, uri)
    names = sorted(set(index.values())) if index else [SINGLE]
    if missing := [name for name in names if name not in files]:
        raise BadInput(
            reasons.MODEL_WEIGHTS_MISSING,
            f"The model at {uri} is incomplete: {', '.join(missing)} missing",
            "Upload the missing *.safetensors files.",
        )
    with ThreadPoolExecutor(max_workers=min(READERS, len(names))) as pool:
        headers = pool.map(partial(read_tensors, store), [files[name] for name in names])
        shards = dict(zip(names, headers, strict=True))
    for tensor, name in index.items():
        if tensor not in shards[name]:
            raise BadInput(
                reasons.MODEL_WEIGHTS_MISSING,
                f"{uri}/{name} has no tensor {tensor}, but {INDEX} says so",
                "Upload the index and all *.safetensors files again, from one version of the model.",
            )
    return shards


def read_index(directory: Path, uri: str) -> dict[str, str]:
    """The weight file of each tensor; empty where the model has one file and no index.

    Raises:
        BadInput: the index is broken.
    """
    path, name = directory / INDEX, f"{uri}/{INDEX}"
    if not path.is_file():
        return {}
    found = read_object(path, name).get("weight_map")
    if not isinstance(found, dict) or not found:
        what = "has no weight_map" if found is None else "has a weight_map that is not an object with entries"
        raise BadInput(reasons.INVALID_MODEL, f"{name} {what}", "Upload the model's own index again.")
    for tensor, file in found.items():
        if not isinstance(file, str) or "/" in file or not file.endswith(".safetensors"):
            raise BadInput(
                reasons.INVALID_MODEL,
                f"{name}: weight_map places {tensor} in {file!r}, which is not a *.safetensors file beside it",
                "Upload the model's own index again.",
            )
    return found


def read_tensors(store: Store, file: ObjectInfo) -> dict[str, TensorInfo]:
    """The tensors that the header of a weight file names.

    Raises:
        BadInput: the file is not safetensors, or its size is not what its header says.
    """
    data = store.read_range(file.uri, 0, min(FIRST_BYTES, file.size)) if file.size else b""
    if found := mistaken(data):
        raise BadInput(reasons.MODEL_WEIGHTS_MISSING, f"{file.uri} {found.what}", found.advice)
    try:
        length = header_bytes(data, file.size)
        if length > len(data):
            data += store.read_range(file.uri, len(data), length - len(data))
        return parse_header(data[:length], file.size)
    except Truncated as error:
        raise BadInput(reasons.MODEL_WEIGHTS_MISSING, f"{file.uri} is truncated: it {error}", UPLOAD_ADVICE) from error
    except InvalidHeader as error:
        raise BadInput(reasons.INVALID_MODEL, f"{file.uri} {error}", UPLOAD_ADVICE) from error
