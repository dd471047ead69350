"""What a cleaning step is given, and what it looks like."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from tuneyard_api.kinds.dataset import Cleaning
from tuneyard_trainer.data.changes import Changes
from tuneyard_trainer.data.dropped import DroppedRows
from tuneyard_trainer.data.examples import Example, content, content_key
from tuneyard_trainer.data.readers.row import Place
from tuneyard_trainer.data.source import KnownRow, SourceRow
from tuneyard_trainer.data.split import GENERAL, Split
from tuneyard_trainer.data.spool import Spooled
from tuneyard_trainer.data.tokenize.tokens import AnswerCounts

Item = TypeVar("Item")


@dataclass(frozen=True)
class CleaningContext:
    """The settings of all steps, and what they have dropped and changed."""

    settings: Cleaning
    """spec.dataset.clean."""
    max_length: int
    """spec.training.maxLength, in tokens."""
    dropped: DroppedRows
    """The report and the status show the reasons."""
    answers: AnswerCounts = field(default_factory=AnswerCounts)
    """The answers of the rows that are neither too long nor duplicates."""
    changes: Changes = field(default_factory=Changes)
    general: "CleaningContext | None" = None
    """For the rows of dataset.replay, which are counted apart."""

    def of(self, split: Split) -> "CleaningContext":
        """The one for the sources of a split."""
        return self.general if split == GENERAL and self.general else self

    def drop(self, row: KnownRow, reason: str, message: str = "", repeats: Place | None = None) -> None:
        """Counts a row that is not kept; see DroppedRows.add."""
        self.of(row.split).dropped.add(row.where, reason, content(row.example), message, repeats)

    def change(self, row: SourceRow, example: Example, what: str, *, hide: bool = False) -> SourceRow:
        """The row with another example, which is counted and sampled; see Changes.add."""
        self.of(row.split).changes.add(row.where, what, row.example, example, hide=hide)
        return row._replace(example=example, key=content_key(example))


class Step(Protocol[Item]):
    """A module that lets rows pass, changes them or drops them, one after another."""

    def apply(self, rows: Iterable[Item], context: CleaningContext) -> Iterator[Item]:
        """The rows that are kept; the others are given to context.drop.

        Raises:
            BadInput: the settings say that such a row fails the job.
        """
        ...


class SetStep(Protocol):
    """A module that compares the rows with each other, once all of them are on disk."""

    def apply(self, rows: Spooled, context: CleaningContext) -> None:
        """Leaves out rows, and gives them to context.drop."""
        ...


def apply_set_steps(steps: Iterable[SetStep], rows: Spooled, context: CleaningContext) -> None:
    """Leaves out the rows that a step drops."""
    for step in steps:
        step.apply(rows, context)


def apply_steps(steps: Iterable[Step[Item]], rows: Iterable[Item], context: CleaningContext) -> Iterable[Item]:
    """The rows that all steps keep."""
    for step in steps:
        rows = step.apply(rows, context)
    return rows
