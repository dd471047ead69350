"""Drops rows with few tokens that are trained (dataset.clean.minTrainedTokens)."""

from collections.abc import Iterable, Iterator
from typing import Final

from tuneyard_trainer.data.cleaning.step import CleaningContext
from tuneyard_trainer.data.columns import supervised
from tuneyard_trainer.data.tokenize import TokenizedExample

REASON: Final = "tooShort"


def apply(rows: Iterable[TokenizedExample], context: CleaningContext) -> Iterator[TokenizedExample]:
    least = context.settings.min_trained_tokens
    for row in rows:
        # The last piece of a long text may be short.
        if row.piece or supervised(row.tokens) >= least:
            yield row
        else:
            context.drop(row.source, REASON)
