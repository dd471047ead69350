"""The shapes in the weight files are those that config.json asks for; transformers refuses to load others."""

from collections.abc import Iterator

from tuneyard_api import reasons
from tuneyard_api.kinds.training import Training
from tuneyard_trainer.model.architectures import Shape
from tuneyard_trainer.model.base import BaseModel
from tuneyard_trainer.model.names import layers_of, stored
from tuneyard_trainer.runtime.errors import BadInput


def check(model: BaseModel, training: Training) -> None:
    structure = model.structure
    if structure is None:
        return
    check_layers(model)
    sizes = structure.sizes(model.config)
    for name, shape in expected(model):
        tensor = stored(model, name)
        wanted = tuple(sizes.get(size) if size else None for size in shape)
        if tensor is None or fits(tensor.shape, wanted):
            continue
        says = ", ".join(str(size) if size else "?" for size in wanted)
        raise BadInput(
            reasons.INVALID_MODEL,
            f"The tensor {name} of the model at {model.uri} has the shape {list(tensor.shape)}, but config.json asks "
            f"for [{says}]",
            "Upload the config.json and the *.safetensors files of one version of the model.",
        )


def check_layers(model: BaseModel) -> None:
    """Raises BadInput when there are more layers than config.json says: transformers would leave them out.

    A layer that only predicts further tokens has parameters of its own, and is left out rightly.
    """
    layers = layers_of(model)
    last = layers.parameters.get(layers.wanted - 1) if layers else None
    further = [number for number in layers.parameters if number >= layers.wanted] if layers else []
    if layers and last and any(layers.parameters[number] == last for number in further):
        raise BadInput(
            reasons.INVALID_MODEL,
            f"The weights of the model at {model.uri} have {len(layers.parameters)} layers, config.json says "
            f"{layers.wanted}",
            "Upload the config.json and the *.safetensors files of one version of the model.",
        )


def expected(model: BaseModel) -> Iterator[tuple[str, Shape]]:
    """The parameters of the model with their shapes."""
    structure, layers = model.structure, layers_of(model)
    if structure is None:
        return
    yield from structure.outer.items()
    for number in range(layers.wanted if layers else 0):
        for parameter, shape in structure.layer.items():
            yield f"{structure.layers}{number}.{parameter}", shape


def fits(found: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(found) == len(wanted) and all(size in (None, is_) for is_, size in zip(found, wanted, strict=True))
