"""Rows that are not kept: counted by reason, and written down so that a person can repair them."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple, Self

from tuneyard_trainer.data.excerpt import excerpt
from tuneyard_trainer.data.readers.row import Place


class Drop(NamedTuple):
    """A row that is not kept, without what must not be written down."""

    place: Place
    reason: str
    """A camelCase word that report and status show."""
    row: str
    """The beginning of it."""
    message: str
    """Says more of this row."""
    repeats: Place | None
    """The kept row that says the same."""
    line: str
    """All of this, as JSON."""


class DroppedRows:
    """Counts dropped rows, and appends each to a file of JSON Lines: its place, the reason, and the row."""

    def __init__(self, path: Path | None = None, redact: Callable[[Any], Any] = lambda row: row) -> None:
        """Without a path rows are only counted.

        Args:
            redact: takes out of a row what must not be written down.
        """
        self.path = path
        self._redact = redact
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, Drop] = {}
        """The first row of each reason."""
        self.repeated: Counter[Place] = Counter()
        """By the kept row, how many rows that repeat it were dropped."""
        self._file: IO[str] | None = None

    def add(self, place: Place, reason: str, row: Any, message: str = "", repeats: Place | None = None) -> None:
        """Counts a row and writes it down; see Drop."""
        self.take(self.drop(place, reason, row, message, repeats))

    def drop(self, place: Place, reason: str, row: Any, message: str = "", repeats: Place | None = None) -> Drop:
        """What is written down of a row."""
        row = self._redact(row)
        where = {"uri": place.uri, place.unit: place.number}
        said: dict[str, Any] = {"message": message} if message else {}
        if repeats is not None:
            said["repeats"] = {"uri": repeats.uri, repeats.unit: repeats.number}
        line = json.dumps(where | {"reason": reason} | said | {"row": row}, ensure_ascii=False, default=str)
        return Drop(place, reason, excerpt(row), message, repeats, line)

    def take(self, drop: Drop) -> None:
        """Counts a row of which this is to be written down."""
        self.counts[drop.reason] += 1
        self.examples.setdefault(drop.reason, drop)
        if drop.repeats is not None:
            self.repeated[drop.repeats] += 1
        if self.path is None:
            return
        if self._file is None:
            # Half a character in a row becomes an escape, which JSON reads back as it was.
            self._file = self.path.open("w", encoding="utf-8", errors="backslashreplace")
        self._file.write(drop.line + "\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
