"""Checks of the base model that need no weights: whether it is complete, and its shapes."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

from tuneyard_api import reasons
from tuneyard_store.store import ObjectInfo, Store
from tuneyard_trainer.model.layout import INDEX, SINGLE, config_files
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


class ModelShape(NamedTuple):
    """What an artifact format has to fit, from a model's configuration."""

    columns: tuple[int, ...] = ()
    """The input widths of the linear layers; empty where they are unknown."""
    architecture: str | None = None
    """The class in transformers; None where the configuration names none."""


def model_shape(directory: Path) -> ModelShape:
    """The shape of the model whose configuration is in `directory`."""
    config: dict[str, Any] = json.loads((directory / CONFIG).read_text())
    return ModelShape(_input_columns(config), next(iter(config.get("architectures") or ()), None))


def _input_columns(config: dict[str, Any]) -> tuple[int, ...]:
    hidden, heads = config.get("hidden_size"), config.get("num_attention_heads")
    head = config.get("head_dim") or (hidden // heads if hidden and heads else None)
    attention = heads * head if heads and head else None
    widths = {hidden, config.get("intermediate_size"), config.get("moe_intermediate_size"), attention}
    return tuple(sorted(width for width in widths if isinstance(width, int) and width > 0))
