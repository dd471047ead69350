"""Drops rows that nearly repeat an earlier row (dataset.clean.nearDuplicates)."""

from typing import Final

from tuneyard_trainer.data.cleaning.leakage import REASON as LEAKED
from tuneyard_trainer.data.cleaning.step import CleaningContext
from tuneyard_trainer.data.similar import repeated
from tuneyard_trainer.data.spool import Spooled

REASON: Final = "nearDuplicate"


def apply(rows: Spooled, context: CleaningContext) -> None:
    threshold = context.settings.near_duplicates
    if not threshold:
        return
    for later, earlier in repeated(rows.words, threshold):
        leaks = rows.is_held_out(earlier) and not rows.is_held_out(later)
        dropped = rows.leave_out(later)
        place = rows.row(earlier).where
        context.drop(dropped, LEAKED if leaks else REASON, f"nearly repeats {place}", None if leaks else place)
