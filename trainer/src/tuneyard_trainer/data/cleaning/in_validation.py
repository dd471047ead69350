"""Drops training rows that are in the validation source too: a score on rows that were trained means nothing."""

from collections.abc import Iterable, Iterator
from typing import Final

from tuneyard_trainer.data.cleaning.step import CleaningContext
from tuneyard_trainer.data.examples import Key
from tuneyard_trainer.data.split import VALIDATION
from tuneyard_trainer.data.spool import WrittenRow

REASON: Final = "inValidation"


def apply(rows: Iterable[WrittenRow], context: CleaningContext) -> Iterator[WrittenRow]:
    validation: set[Key] = set()
    for row in rows:
        if row.split == VALIDATION:
            validation.add(row.key)
        elif row.key in validation:
            context.drop(row, REASON)
            continue
        yield row
