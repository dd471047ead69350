"""Rows that are not kept: counted by reason, and written down so that a person can repair them."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple, Self

from tuneyard_trainer.data.excerpt import excerpt
from tuneyard_trainer.data.readers.row import Place


class DroppedRow(NamedTuple):
    """A row that is not kept."""

    place: Place
    row: str
    """The beginning of it."""
    message: str


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
        self.examples: dict[str, DroppedRow] = {}
        """The first row of each reason."""
        self.repeated: Counter[Place] = Counter()
        """By the kept row, how many rows that repeat it were dropped."""
        self._file: IO[str] | None = None

    def add(self, place: Place, reason: str, row: Any, message: str = "", repeats: Place | None = None) -> None:
        """Counts a row and writes it down.

        Args:
            reason: a camelCase word that report and status show.
            message: says more of this row.
            repeats: the kept row that says the same.
        """
        self.counts[reason] += 1
        row = self._redact(row)
        if reason not in self.examples:
            self.examples[reason] = DroppedRow(place, excerpt(row), message)
        if repeats is not None:
            self.repeated[repeats] += 1
        if self.path is None:
            return
        if self._file is None:
            # Half a character in a row becomes an escape, which JSON reads back as it was.
            self._file = self.path.open("w", encoding="utf-8", errors="backslashreplace")
        where = {"uri": place.uri, place.unit: place.number}
        said: dict[str, Any] = {"message": message} if message else {}
        if repeats is not None:
            said["repeats"] = {"uri": repeats.uri, repeats.unit: repeats.number}
        written = json.dumps(where | {"reason": reason} | said | {"row": row}, ensure_ascii=False, default=str)
        self._file.write(written + "\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
