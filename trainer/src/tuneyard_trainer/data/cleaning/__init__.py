"""Cleaning: a new step is one module with `apply` and one line here. The steps work in this order.

Repair comes first, so that what follows sees the text as it is trained; secrets go before any row is written down.
"""

from typing import Final

from tuneyard_trainer.data.cleaning import (
    conflicting_answers,
    control_characters,
    count_answers,
    encoding,
    exact_duplicates,
    in_validation,
    language,
    leakage,
    near_duplicates,
    nothing_to_train,
    pii,
    placeholders,
    refusals,
    rules,
    secrets,
    too_long,
    too_short,
)
from tuneyard_trainer.data.cleaning.step import SetStep, Step
from tuneyard_trainer.data.source import SourceRow
from tuneyard_trainer.data.spool import WrittenRow
from tuneyard_trainer.data.tokenize import TokenizedExample

# Row by row, in processes that know of no other row.
ROW_STEPS: Final[tuple[Step[SourceRow], ...]] = (
    encoding,
    control_characters,
    secrets,
    pii,
    rules,
    placeholders,
    refusals,
    language,
)
# Each row with those before it. The rows of the validation source come first.
REPEAT_STEPS: Final[tuple[Step[WrittenRow], ...]] = (
    in_validation,
    exact_duplicates,
)
# Once all rows are on disk.
SET_STEPS: Final[tuple[SetStep, ...]] = (
    near_duplicates,
    conflicting_answers,
)
# Once the validation rows are chosen.
SPLIT_STEPS: Final[tuple[SetStep, ...]] = (leakage,)
# Row by row after tokenizing, in processes again.
TOKEN_STEPS: Final[tuple[Step[TokenizedExample], ...]] = (
    too_long,
    count_answers,
    nothing_to_train,
    too_short,
)
