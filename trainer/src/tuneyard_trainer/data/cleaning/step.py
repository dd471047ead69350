"""What a cleaning step is given, and what it looks like."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from tuneyard_api.kinds.dataset import Cleaning
from tuneyard_trainer.data.dropped import DroppedRows
from tuneyard_trainer.data.examples import content
from tuneyard_trainer.data.readers.row import Place
from tuneyard_trainer.data.source import SourceRow
from tuneyard_trainer.data.tokenize.tokens import AnswerCounts

Item = TypeVar("Item")


@dataclass(frozen=True)
class CleaningContext:
    """The settings of all steps, and what they have dropped."""

    settings: Cleaning
    """spec.dataset.clean."""
    max_length: int
    """spec.training.maxLength, in tokens."""
    dropped: DroppedRows
    """The report and the status show the reasons."""
    answers: AnswerCounts = field(default_factory=AnswerCounts)
    """The answers of the rows that are neither too long nor duplicates."""

    def drop(self, row: SourceRow, reason: str, message: str = "", repeats: Place | None = None) -> None:
        """Counts a row that is not kept; see DroppedRows.add."""
        self.dropped.add(row.where, reason, content(row.example), message, repeats)


class Step(Protocol[Item]):
    """A module that lets rows pass, changes them or drops them, one after another."""

    def apply(self, rows: Iterable[Item], context: CleaningContext) -> Iterator[Item]:
        """The rows that are kept; the others are given to context.drop.

        Raises:
            BadInput: the settings say that such a row fails the job.
        """
        ...


def apply_steps(steps: Iterable[Step[Item]], rows: Iterable[Item], context: CleaningContext) -> Iterable[Item]:
    """The rows that all steps keep."""
    for step in steps:
        rows = step.apply(rows, context)
    return rows
