"""Which rows are trained and which are held out."""

import hashlib
from collections.abc import Iterable
from functools import partial
from heapq import nsmallest
from typing import Final, Literal

from tuneyard_trainer.data.examples import Key
from tuneyard_trainer.data.row_keys import RowKeys

Split = Literal["train", "validation", "general"]
"""general: rows of dataset.replay. Some of them are trained too; the others are held out, and remain in this split."""

TRAIN: Final = "train"
VALIDATION: Final = "validation"
GENERAL: Final = "general"
DEFAULT_FRACTION: Final = 0.05


def held_out(keys: Iterable[Key], fraction: float | None, seed: int) -> set[Key]:
    """The keys of a share of the different rows, at least one, by content and seed: the order does not matter."""
    different = set(keys)
    count = max(1, round(len(different) * (fraction or DEFAULT_FRACTION)))
    chosen = RowKeys(nsmallest(count, different, key=partial(rank, seed=seed)))
    del different  # its keys lie among the chosen ones in memory, which is freed if the set below has new ones
    return set(chosen)


def rank(key: Key, seed: int) -> bytes:
    """By this rows are in a random order, which their content and the seed tell."""
    return hashlib.sha256(seed.to_bytes(8, "big") + key).digest()
