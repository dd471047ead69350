"""Checks of a base model before a GPU is asked for: each is one module with `check`, and one line here.

None of them reads weights: files, config.json and the headers of the weight files tell all of it.
"""

from typing import Final, Protocol

from tuneyard_api.kinds.training import Training
from tuneyard_trainer.model.base import BaseModel
from tuneyard_trainer.model.checks import (
    completeness,
    json_files,
    kinds,
    numbers,
    own_code,
    positions,
    quantized,
    sizes,
    vocabulary,
)


class Check(Protocol):
    """A module that checks one thing."""

    def check(self, model: BaseModel, training: Training) -> None:
        """Raises BadInput that names the file, what is wrong there and what to do."""
        ...


# Before the headers of the weights are read: what is of the wrong kind is not called incomplete.
CONFIG_CHECKS: Final[tuple[Check, ...]] = (json_files, quantized, own_code, kinds, numbers)
WEIGHT_CHECKS: Final[tuple[Check, ...]] = (quantized, completeness, sizes, vocabulary, positions)
