"""Drops rows that answer the question of an earlier row otherwise (dataset.clean.conflictingAnswers).

The question is all that stands before the last answer. Rows with nearly the same answer are near duplicates, which are
another step's. Pairs of answers to one question are no conflict.
"""

from typing import Final

from tuneyard_trainer.data.cleaning.step import CleaningContext
from tuneyard_trainer.data.spool import Spooled

REASON: Final = "conflictingAnswer"


def apply(rows: Spooled, context: CleaningContext) -> None:
    if context.settings.conflicting_answers == "keep":
        return
    asked: dict[int, int] = {}
    for number, question in enumerate(rows.questions):
        if not question or not rows.kept[number]:
            continue
        first = asked.setdefault(question, number)
        if rows.row_keys[first] != rows.row_keys[number]:
            context.drop(rows.leave_out(number), REASON, f"answers the question of {rows.row(first).where} otherwise")
