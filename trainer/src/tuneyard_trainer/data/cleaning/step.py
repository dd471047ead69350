"""What a cleaning step is given, and what it looks like."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol, TypeVar

from tuneyard_api.kinds.finetunejob import Cleaning

Item = TypeVar("Item")


class CleaningContext(NamedTuple):
    """The settings of all steps, and what they have dropped."""

    settings: Cleaning
    """spec.dataset.clean."""
    max_length: int
    """spec.training.maxLength, in tokens."""
    dropped: Counter[str]
    """Rows by reason; the report and the status show the reasons."""


class Step(Protocol[Item]):
    """A module that lets rows pass, changes them or drops them, one after another."""

    def apply(self, rows: Iterable[Item], context: CleaningContext) -> Iterator[Item]:
        """The rows that are kept; the others are counted in context.dropped.

        Raises:
            BadInput: the settings say that such a row fails the job.
        """
        ...


def apply_steps(steps: Iterable[Step[Item]], rows: Iterable[Item], context: CleaningContext) -> Iterable[Item]:
    """The rows that all steps keep."""
    for step in steps:
        rows = step.apply(rows, context)
    return rows
