"""Counts the answers that are trained, before the rows without any are dropped. All rows pass."""

from collections.abc import Iterable, Iterator

from tuneyard_trainer.data.cleaning.step import CleaningContext
from tuneyard_trainer.data.columns import length
from tuneyard_trainer.data.tokenize import TokenizedExample


def apply(rows: Iterable[TokenizedExample], context: CleaningContext) -> Iterator[TokenizedExample]:
    for row in rows:
        for answer in row.answers:
            context.answers.add(answer, length(row.tokens))
        yield row
