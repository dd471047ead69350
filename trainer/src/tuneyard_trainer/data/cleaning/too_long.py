"""Drops, truncates or rejects rows with more tokens than training.maxLength (dataset.clean.maxLength).

Plain text has no beginning that the rest needs, so it is cut into pieces instead.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from tuneyard_api import reasons
from tuneyard_trainer.data.cleaning.step import CleaningContext
from tuneyard_trainer.data.columns import is_trainable, length, pieces, truncated
from tuneyard_trainer.data.examples import Text
from tuneyard_trainer.data.tokenize import TokenizedExample
from tuneyard_trainer.runtime.errors import BadInput

REASON: Final = "tooLong"


def apply(rows: Iterable[TokenizedExample], context: CleaningContext) -> Iterator[TokenizedExample]:
    limit, policy = context.max_length, context.settings.max_length
    for row in rows:
        tokens = length(row.tokens)
        if tokens <= limit:
            yield row
        elif isinstance(row.source.example, Text):
            for number, piece in enumerate(pieces(row.tokens, limit)):
                if is_trainable(piece):
                    yield row._replace(tokens=piece, piece=number)
        elif policy == "fail":
            raise BadInput(
                reasons.INVALID_ROW,
                f"{row.source.where}: {tokens} tokens; training.maxLength is {limit}",
                "Raise training.maxLength, shorten the row, or set dataset.clean.maxLength to drop or truncate.",
            )
        elif policy == "drop":
            context.drop(row.source, REASON)
        else:
            yield row._replace(tokens=truncated(row.tokens, limit))
