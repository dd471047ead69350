"""The checks of the base model in prepare, before a GPU is asked for; see model/checks for what they are."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Final

from tuneyard_api import reasons
from tuneyard_api.kinds.training import Training
from tuneyard_store.store import ObjectInfo, Store
from tuneyard_trainer.model.base import BaseModel
from tuneyard_trainer.model.checks import CONFIG_CHECKS, WEIGHT_CHECKS
from tuneyard_trainer.model.layout import INDEX, config_files
from tuneyard_trainer.model.weights import read_shards
from tuneyard_trainer.runtime.errors import BadInput
from tuneyard_trainer.runtime.userfiles import read_object

CONFIG: Final = "config.json"
WEIGHTS: Final = ".safetensors"
# Weights that are not read: some of these formats can run code, others hold quantized weights.
OTHER_WEIGHTS: Final = (".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx")


def check_model(store: Store, uri: str, directory: Path, training: Training) -> BaseModel:
    """The model at `uri`, after all checks; its small files are downloaded into `directory`.

    Raises:
        BadInput: the model is incomplete, broken, or cannot be tuned.
    """
    uri = uri.rstrip("/")
    found = {item.uri.removeprefix(f"{uri}/"): item for item in store.list(f"{uri}/")}
    if CONFIG not in found:
        raise _no_config(store, uri, found)
    files = {name: found[name] for name in sorted(model_files(found))}
    for name, item in files.items():
        if not name.endswith(WEIGHTS):
            store.download(item.uri, directory / name)
    model = BaseModel(uri, directory, files, read_object(directory / CONFIG, f"{uri}/{CONFIG}"))
    for config_check in CONFIG_CHECKS:
        config_check.check(model, training)
    if not any(name.endswith(WEIGHTS) for name in files):
        raise _no_weights(uri, found)
    model = replace(model, shards=read_shards(store, files, directory, uri))
    for weight_check in WEIGHT_CHECKS:
        weight_check.check(model, training)
    return model


def model_files(found: Iterable[str]) -> set[str]:
    """Those of the files in a directory that belong to a model."""
    names = list(found)
    return {
        *config_files(names),
        *(name for name in names if (name.endswith(WEIGHTS) and "/" not in name) or name == INDEX),
    }


def _no_config(store: Store, uri: str, found: dict[str, ObjectInfo]) -> BadInput:
    what = f"{uri}/{CONFIG} does not exist" if found else f"There is no model at {uri} in {store.endpoint(uri)}"
    below = sorted(name for name in found if PurePosixPath(name).name == CONFIG)
    other = sorted(name for name in found if name.endswith(OTHER_WEIGHTS))
    if below:
        what += f" (but {below[0]} below it does)"
    elif other:
        what += f" (there is {other[0]})"
    return BadInput(
        reasons.MODEL_NOT_FOUND,
        what,
        "Upload the model's directory there (config.json, tokenizer, *.safetensors), or correct model.uri.",
    )


def _no_weights(uri: str, found: dict[str, ObjectInfo]) -> BadInput:
    other = sorted(name for name in found if name.endswith(OTHER_WEIGHTS))
    instead = f", only {', '.join(other[:3])}" if other else ""
    return BadInput(
        reasons.MODEL_WEIGHTS_MISSING,
        f"The model at {uri} has no weights: no *.safetensors beside {CONFIG}{instead}",
        "Upload them; convert other formats with transformers (save_pretrained).",
    )
