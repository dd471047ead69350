"""Which rows are trained and which are held out for validation."""

import hashlib
from collections.abc import Iterable
from typing import Final, Literal

from tuneyard_trainer.data.examples import Key

Split = Literal["train", "validation"]

TRAIN: Final = "train"
VALIDATION: Final = "validation"
DEFAULT_FRACTION: Final = 0.05


def held_out(keys: Iterable[Key], fraction: float | None, seed: int) -> set[Key]:
    """The keys of a share of the different rows, at least one, by content and seed: the order does not matter."""
    ranked = sorted(set(keys), key=lambda key: hashlib.sha256(seed.to_bytes(8, "big") + key).digest())
    return set(ranked[: max(1, round(len(ranked) * (fraction or DEFAULT_FRACTION)))])
