"""Which rows are trained and which are held out."""

import hashlib
from collections.abc import Iterable
from functools import partial
from heapq import nsmallest
from typing import Final, Literal

from tuneyard_trainer.data.examples import KEY_BYTES, Key

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
    chosen: bytes = b"".join(nsmallest(count, different, key=partial(rank, seed=seed)))
    del different  # what is chosen is made anew, as it would keep the memory of all keys that lie around it
    return {chosen[begin : begin + KEY_BYTES] for begin in range(0, len(chosen), KEY_BYTES)}


def rank(key: Key, seed: int) -> bytes:
    """By this rows are in a random order, which their content and the seed tell."""
    return hashlib.sha256(seed.to_bytes(8, "big") + key).digest()
