"""Keeps the first of the rows with the same content (dataset.clean.exactDuplicates)."""

from collections.abc import Iterable, Iterator
from typing import Final

from tuneyard_trainer.data.cleaning.places import KnownPlaces
from tuneyard_trainer.data.cleaning.step import CleaningContext
from tuneyard_trainer.data.spool import WrittenRow

REASON: Final = "duplicate"


def apply(rows: Iterable[WrittenRow], context: CleaningContext) -> Iterator[WrittenRow]:
    if context.settings.exact_duplicates == "keep":
        yield from rows
        return
    seen = KnownPlaces()
    for row in rows:
        if (first := seen.number(row.key)) is not None:
            context.drop(row, REASON, f"repeats {seen.place(first)}", seen.place(first))
        else:
            seen.add(row.key, row.where)
            yield row
