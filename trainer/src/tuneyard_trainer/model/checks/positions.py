"""Rows are no longer than the positions that the model has learned."""

import logging

from tuneyard_api import reasons
from tuneyard_api.kinds.training import Training
from tuneyard_trainer.model.base import BaseModel
from tuneyard_trainer.model.names import stored
from tuneyard_trainer.runtime.errors import BadInput

log = logging.getLogger("tuneyard")


def check(model: BaseModel, training: Training) -> None:
    learned, length = positions(model), training.max_length
    if learned is not None and length > learned:
        raise BadInput(
            reasons.INVALID_SPEC,
            f"training.maxLength is {length}, but the model at {model.uri} has learned {learned} positions",
            f"Set training.maxLength to at most {learned}.",
        )
    rotary = model.config.get("max_position_embeddings")
    if learned is None and isinstance(rotary, int) and 0 < rotary < length:
        log.warning(
            "training.maxLength %d is longer than the %d positions that %s was trained for (max_position_embeddings in "
            "config.json): expect worse answers in long chats",
            length,
            rotary,
            model.uri,
        )


def positions(model: BaseModel) -> int | None:
    """The rows of the learned position embedding; None where positions are computed."""
    embedding = model.structure.positions if model.structure else None
    if embedding is None:
        return None
    name, extra = embedding
    tensor = stored(model, name)
    return tensor.shape[0] - extra if tensor else None
