"""No parameter is missing: transformers would fill it with random numbers, and say so in its log only."""

from collections.abc import Iterator
from typing import Final

from tuneyard_api import reasons
from tuneyard_api.kinds.training import Training
from tuneyard_trainer.model.base import BaseModel
from tuneyard_trainer.model.names import Layers, layers_of, stored
from tuneyard_trainer.runtime.errors import BadInput

NAMED: Final = 3
"""So many missing tensors are named."""


def check(model: BaseModel, training: Training) -> None:
    missing = [*missing_outside(model), *missing_in_layers(model)]
    if missing:
        names = ", ".join(missing[:NAMED])
        more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
        raise BadInput(
            reasons.MODEL_WEIGHTS_MISSING,
            f"The weights of the model at {model.uri} lack {names}{more}",
            "Upload all *.safetensors files of one version of the model, with the config.json that goes with them.",
        )


def missing_outside(model: BaseModel) -> Iterator[str]:
    """The parameters outside the layers that are not in the files."""
    structure = model.structure
    if structure is None:
        return
    for name in structure.outer:
        tied_to_head = name == structure.embedding and is_tied(model) and stored(model, structure.head)
        if not stored(model, name) and not tied_to_head:
            yield name
    if not is_tied(model) and not has_head(model):
        yield structure.head


def is_tied(model: BaseModel) -> bool:
    """Whether the head is the embedding."""
    by_default = model.structure is not None and model.structure.tied
    return bool(model.config.get("tie_word_embeddings", by_default))


def has_head(model: BaseModel) -> bool:
    """Whether there is a second tensor as large as the embedding: the head has another name in some files."""
    embedding = stored(model, model.structure.embedding) if model.structure else None
    shapes = [tensor.shape for tensor in model.tensors.values()]
    return embedding is None or shapes.count(embedding.shape) > 1


def missing_in_layers(model: BaseModel) -> Iterator[str]:
    """The parameters of layers that are not in the files: layer by layer, and those that other layers have."""
    layers = layers_of(model)
    if layers is None:
        return
    known = set(model.structure.layer) if model.structure else set()
    # config.json may ask for billions: one layer that is missing as a whole is enough.
    for number in range(min(layers.wanted, len(layers.parameters) + 1)):
        found = layers.parameters.get(number, frozenset())
        for parameter in sorted((known | usual(layers, number)) - found):
            yield f"{layers.prefix}{number}.{parameter}"


def usual(layers: Layers, number: int) -> frozenset[str]:
    """What another layer has, if this one has a part of it only; layers of another kind have something of their own."""
    found = layers.parameters.get(number, frozenset())
    others = (names for other, names in layers.parameters.items() if other < layers.wanted and found < names)
    # Some files hold buffers too, which transformers computes.
    return frozenset(name for name in max(others, key=len, default=found) if name.endswith((".weight", ".bias")))
