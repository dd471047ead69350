"""What becomes of the rows of a block, in their order, as a process hands it to the stage that counts it all."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeAlias, TypeVar

from tuneyard_api.kinds.dataset import BadRowsPolicy, Cleaning
from tuneyard_trainer.data.bad_rows import BadRow, BadRows
from tuneyard_trainer.data.dropped import Drop, DroppedRows
from tuneyard_trainer.data.secrets import redaction
from tuneyard_trainer.runtime.errors import StageError

Kept = TypeVar("Kept")

Outcome: TypeAlias = Drop | BadRow | StageError | Kept
"""Of a row: it is kept, or dropped, or cannot be used, or fails the job."""


class Recording(Generic[Kept]):
    """Remembers what becomes of some rows. What `dropped` and `bad` are told goes into `outcomes`, uncounted."""

    def __init__(self, settings: Cleaning) -> None:
        self.outcomes: list[Outcome[Kept]] = []
        self.dropped: DroppedRows = _Drops(self.outcomes.append, redaction(settings))
        self.bad: BadRows = _Bad(self.outcomes.append, self.dropped)

    def take(self, rows: Iterable[Kept]) -> None:
        """Goes through rows that are kept."""
        try:
            for row in rows:
                self.outcomes.append(row)
        except StageError as error:
            self.outcomes.append(error)


class _Drops(DroppedRows):
    def __init__(self, record: Callable[[Drop], None], redact: Callable[[Any], Any]) -> None:
        super().__init__(None, redact)
        self._record = record

    def take(self, drop: Drop) -> None:
        self._record(drop)


class _Bad(BadRows):
    def __init__(self, record: Callable[[BadRow], None], dropped: DroppedRows) -> None:
        super().__init__(BadRowsPolicy(), dropped)
        self._record = record

    def take(self, bad: BadRow) -> None:
        self._record(bad)


def settled(outcomes: Iterable[Outcome[Kept]], bad: BadRows, dropped: DroppedRows) -> Iterator[Kept]:
    """The rows that are kept; the others are counted here.

    Raises:
        StageError: a row fails the job.
    """
    for outcome in outcomes:
        if isinstance(outcome, Drop):
            dropped.take(outcome)
        elif isinstance(outcome, BadRow):
            bad.take(outcome)
        elif isinstance(outcome, StageError):
            raise outcome
        else:
            yield outcome
