"""What was seen in the rows of all sources while they were read; the data report shows it."""

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from tuneyard_trainer.data.readers.row import Place

ORIGINALS: Final = 20
"""So many rows of each format are remembered as they were read."""


class Original(NamedTuple):
    """A row as it was read."""

    format: str
    text: str
    """The beginning of it, as JSON."""


@dataclass
class SeenFormat:
    """Rows of one format in one source."""

    source: str
    """Its URI."""
    format: str
    first: Place
    fields: str
    """The names of the first row's fields, by which the format was found."""
    rows: int = 0


@dataclass
class Findings:
    """Counts that grow while rows are read."""

    rows: int = 0
    """Good and bad ones."""
    formats: dict[tuple[str, str], SeenFormat] = field(default_factory=dict)
    unread: Counter[str] = field(default_factory=Counter)
    """Rows by the path of a field that has a value and was not read."""
    originals: dict[Place, Original] = field(default_factory=dict)
    """Some rows as they were read; the report shows what became of them."""
    notes: Counter[str] = field(default_factory=Counter)
    """How often something was done to a row that is worth telling."""

    def merge(self, later: "Findings") -> None:
        """Adds what was seen in the rows after these."""
        self.rows += later.rows
        self.unread.update(later.unread)
        self.notes.update(later.notes)
        room: dict[str, int] = {}
        for key, seen in later.formats.items():
            known = self.formats.setdefault(key, replace(seen, rows=0))
            room[seen.format] = ORIGINALS - known.rows
            known.rows += seen.rows
        for place, original in later.originals.items():
            if room[original.format] > 0:
                room[original.format] -= 1
                self.originals[place] = original
