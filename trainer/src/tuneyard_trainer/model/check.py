"""Checks of the base model that need no weights: whether it is complete, and its shapes."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from tuneyard_api import reasons
from tuneyard_store.store import ObjectInfo, Store
from tuneyard_trainer.model.layout import INDEX, SINGLE, config_files, weight_files
from tuneyard_trainer.model.shape import ModelShape, read_header
from tuneyard_trainer.runtime.errors import BadInput

CONFIG: Final = "config.json"


def check_model(store: Store, uri: str, directory: Path) -> dict[str, ObjectInfo]:
    """The files of the model at `uri` by their path; its small files are downloaded into `directory`.

    Raises:
        BadInput: the model is incomplete.
    """
    files = list_model(store, uri)
    fetch_config(store, files, directory)
    check_weights(directory, files, uri)
    return files


def list_model(store: Store, uri: str) -> dict[str, ObjectInfo]:
    """The files that belong to the model, by their path.

    Raises:
        BadInput: there is no model, or it has no weights in safetensors.
    """
    root = uri.rstrip("/") + "/"
    found = {item.uri.removeprefix(root): item for item in store.list(root)}
    if CONFIG not in found:
        what = f"{root}{CONFIG} does not exist" if found else f"There is no model at {uri} in {store.endpoint(uri)}"
        raise BadInput(
            reasons.MODEL_NOT_FOUND,
            what,
            "Upload the model's directory there (config.json, tokenizer, *.safetensors), or correct model.uri.",
        )
    weights = [name for name in found if name.endswith(".safetensors") and "/" not in name]
    if not weights:
        raise BadInput(
            reasons.MODEL_WEIGHTS_MISSING,
            f"The model at {uri} has no weights: no *.safetensors beside {CONFIG}",
            "Upload them; convert other formats with transformers (save_pretrained).",
        )
    names = {*config_files(found), *weights, *({INDEX} & found.keys())}
    return {name: found[name] for name in sorted(names)}


def fetch_config(store: Store, files: dict[str, ObjectInfo], to: Path) -> None:
    """Downloads the model's small files: configuration, tokenizer, template and index."""
    for name, item in files.items():
        if not name.endswith(".safetensors"):
            store.download(item.uri, to / name)


def check_weights(directory: Path, names: Iterable[str], uri: str) -> None:
    """Raises BadInput when a shard of the index is missing."""
    index = directory / INDEX
    wanted = set(json.loads(index.read_text())["weight_map"].values()) if index.is_file() else {SINGLE}
    missing = sorted(wanted - set(names))
    if missing:
        raise BadInput(
            reasons.MODEL_WEIGHTS_MISSING,
            f"The model at {uri} is incomplete: {', '.join(missing)} missing",
            "Upload the missing *.safetensors files.",
        )


def read_shape(store: Store, files: dict[str, ObjectInfo], directory: Path) -> ModelShape:
    """The shape of the model whose small files are in `directory`; of its weights only the headers are read.

    Raises:
        BadInput: a file of weights is none.
    """
    tensors: dict[str, tuple[int, ...]] = {}
    for name in weight_files(directory):
        try:
            with store.open(files[name].uri) as stream:
                tensors |= {tensor: info.shape for tensor, info in read_header(stream).tensors.items()}
        except ValueError as error:
            raise BadInput(
                reasons.MODEL_WEIGHTS_MISSING,
                f"{files[name].uri} is no safetensors file: {error}",
                "Upload the file itself: what lies there may be a pointer of Git LFS, or a part of a download.",
            ) from error
    return ModelShape(json.loads((directory / CONFIG).read_text()), tensors)
