"""Keeps the first of the rows with the same content (dataset.clean.exactDuplicates)."""

from collections.abc import Iterable, Iterator
from typing import Final

from tuneyard_trainer.data.cleaning.step import CleaningContext
from tuneyard_trainer.data.examples import Key
from tuneyard_trainer.data.source import SourceRow

REASON: Final = "duplicate"


def apply(rows: Iterable[SourceRow], context: CleaningContext) -> Iterator[SourceRow]:
    if context.settings.exact_duplicates == "keep":
        yield from rows
        return
    seen: set[Key] = set()
    for row in rows:
        if row.key in seen:
            context.drop(row, REASON)
        else:
            seen.add(row.key)
            yield row
