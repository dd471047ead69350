"""Rows are no longer than the positions that the model has learned."""

import logging
import re
from typing import Final

from tuneyard_api import reasons
from tuneyard_api.kinds.training import Training
from tuneyard_trainer.model.base import BaseModel
from tuneyard_trainer.model.names import stored
from tuneyard_trainer.runtime.errors import BadInput

log = logging.getLogger("tuneyard")

# Of architectures whose structure is not known, such as GPT-Neo.
LEARNED: Final = re.compile(r"(^|\.)(wpe|embed_positions|position_embeddings?)\.weight$")
FIELDS: Final = ("max_position_embeddings", "n_positions")


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
    structure = model.structure
    if structure is None:
        learned = any(LEARNED.search(name) for name in model.tensors)
        counts = (model.config.get(field) for field in FIELDS) if learned else ()
        return next((count for count in counts if isinstance(count, int)), None)
    if structure.positions is None:
        return None
    name, extra = structure.positions
    tensor = stored(model, name)
    return tensor.shape[0] - extra if tensor else None
