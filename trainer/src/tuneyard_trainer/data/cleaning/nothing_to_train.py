"""Drops rows without a token that is trained, such as those that were truncated before the answer."""

from collections.abc import Iterable, Iterator
from typing import Final

from tuneyard_trainer.data.cleaning.step import CleaningContext
from tuneyard_trainer.data.columns import is_trainable
from tuneyard_trainer.data.tokenize import TokenizedExample

REASON: Final = "nothingToTrain"


def apply(rows: Iterable[TokenizedExample], context: CleaningContext) -> Iterator[TokenizedExample]:
    for row in rows:
        if is_trainable(row.tokens):
            yield row
        else:
            context.drop(row.source, REASON)
