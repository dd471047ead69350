"""A row of a data file."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Row(NamedTuple):
    """The fields of a row, and where it is in its file."""

    fields: Mapping[str, Any]
    uri: str
    number: int
    """From 1."""
    unit: str = "line"
    """What the number counts: lines of a text file, rows of a binary one."""

    @property
    def where(self) -> str:
        """The place of the row, for messages."""
        return f"{self.uri}, {self.unit} {self.number}"
