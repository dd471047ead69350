"""How the tensors in a model's files are named: with or without the base model's prefix, and by layer."""

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

from tuneyard_trainer.model.base import BaseModel
from tuneyard_trainer.model.shape import TensorInfo


class Layers(NamedTuple):
    """The layers in the files of a model."""

    prefix: str
    """Before the number."""
    wanted: int
    """How many config.json says there are."""
    parameters: Mapping[int, frozenset[str]]


def spellings(model: BaseModel, name: str) -> tuple[str, ...]:
    """The names that a parameter may have in the files."""
    base = model.structure.base if model.structure else ""
    bare = name.removeprefix(f"{base}.")
    # Older checkpoints have TensorFlow's names for a norm's parameters.
    old = bare.removesuffix(".weight") + ".gamma" if bare.endswith(".weight") else bare.removesuffix(".bias") + ".beta"
    return (name, bare, f"{base}.{old}", old)


def stored(model: BaseModel, name: str) -> TensorInfo | None:
    """The tensor of a parameter, whichever way its name is spelled; None where the files do not have it."""
    return next((model.tensors[found] for found in spellings(model, name) if found in model.tensors), None)


def layers_of(model: BaseModel) -> Layers | None:
    """The layers of a model whose structure is known; None of others."""
    structure = model.structure
    count = structure.fields.get("num_hidden_layers") if structure else None
    wanted = model.config.get(count.name, count.default) if count else None
    if structure is None or not isinstance(wanted, int):
        return None
    bare = structure.layers.removeprefix(f"{structure.base}.")
    pattern = re.compile(rf"^({re.escape(structure.base)}\.)?{re.escape(bare)}(\d+)\.(.+)$")
    found: dict[int, set[str]] = defaultdict(set)
    prefix = structure.layers
    for name in model.tensors:
        if match := pattern.match(name):
            prefix = (match[1] or "") + bare
            found[int(match[2])].add(match[3])
    return Layers(prefix, wanted, {number: frozenset(names) for number, names in found.items()})
