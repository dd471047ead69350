"""Rows that are not kept: counted by reason, and written down so that a person can repair them."""

import json
from collections import Counter
from pathlib import Path
from typing import IO, Any, Self

from tuneyard_trainer.data.readers.row import Place


class DroppedRows:
    """Counts dropped rows, and appends each to a file of JSON Lines: its place, the reason, and the row."""

    def __init__(self, path: Path | None = None) -> None:
        """Without a path rows are only counted."""
        self.path = path
        self.counts: Counter[str] = Counter()
        self._file: IO[str] | None = None

    def add(self, place: Place, reason: str, row: Any, message: str = "") -> None:
        """`reason` is a camelCase word that report and status show; `message` says more of this row."""
        self.counts[reason] += 1
        if self.path is None:
            return
        if self._file is None:
            # Half a character in a row becomes an escape, which JSON reads back as it was.
            self._file = self.path.open("w", encoding="utf-8", errors="backslashreplace")
        where = {"uri": place.uri, place.unit: place.number}
        said = {"message": message} if message else {}
        written = json.dumps(where | {"reason": reason} | said | {"row": row}, ensure_ascii=False, default=str)
        self._file.write(written + "\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
