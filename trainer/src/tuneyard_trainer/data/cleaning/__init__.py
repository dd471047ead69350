"""Cleaning: a new step is one module with `apply` and one line here. The steps work in this order."""

from typing import Final

from tuneyard_trainer.data.cleaning import count_answers, exact_duplicates, in_validation, nothing_to_train, too_long
from tuneyard_trainer.data.cleaning.step import Step
from tuneyard_trainer.data.source import SourceRow
from tuneyard_trainer.data.tokenize import TokenizedExample

# Before tokenizing. The rows of the validation source come first.
ROW_STEPS: Final[tuple[Step[SourceRow], ...]] = (
    in_validation,
    exact_duplicates,
)
# After tokenizing.
TOKEN_STEPS: Final[tuple[Step[TokenizedExample], ...]] = (
    too_long,
    count_answers,
    nothing_to_train,
)
