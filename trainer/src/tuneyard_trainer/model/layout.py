"""A model directory in the Hugging Face layout: its files, copied and downloaded."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tuneyard_store.store import Store

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
# Configuration, tokenizer and template. No code, and no weights in formats that can run code.
CONFIG_SUFFIXES = (".json", ".jinja", ".model", ".txt", ".tiktoken")


def config_files(names: Iterable[str]) -> list[str]:
    """The files beside the weights that belong to the model."""
    return sorted(name for name in names if name.endswith(CONFIG_SUFFIXES) and "/" not in name and name != INDEX)


def fresh(directory: Path) -> Path:
    """An empty directory; files of an interrupted run are deleted."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory


def copy_config_files(source: Path, to: Path, but: Iterable[str] = ()) -> None:
    to.mkdir(parents=True, exist_ok=True)
    skipped = set(but)
    for name in config_files(path.name for path in source.iterdir()):
        if name not in skipped:
            shutil.copyfile(source / name, to / name)


def declare_bfloat16(directory: Path) -> None:
    """Writes into config.json that the weights are in bfloat16; names from the machine that made the base go."""
    path = directory / "config.json"
    config: dict[str, Any] = json.loads(path.read_text()) | {"dtype": "bfloat16"}
    dropped = ("torch_dtype", "_name_or_path", "_model_name_or_path")
    path.write_text(json.dumps({key: value for key, value in config.items() if key not in dropped}, indent=2) + "\n")


def weight_files(directory: Path) -> list[str]:
    """The weight files of a model, in order: those of the index if there is one, as some models hold weights twice."""
    index = directory / INDEX
    if index.exists():
        return sorted(set(json.loads(index.read_text())["weight_map"].values()))
    return [SINGLE]


def download_model(store: Store, uri: str, to: Path) -> Path:
    """Downloads config, tokenizer and weights of the model at `uri`."""
    to.mkdir(parents=True, exist_ok=True)
    root = uri.rstrip("/") + "/"
    names = [item.uri.removeprefix(root) for item in store.list(root)]
    for name in [*config_files(names), *(name for name in names if name == INDEX)]:
        store.download(root + name, to / name)
    for name in weight_files(to):
        store.download(root + name, to / name)
    return to
