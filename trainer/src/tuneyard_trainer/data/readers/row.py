"""A row of a data file."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from tuneyard_trainer.data.examples import RowError


class Place(NamedTuple):
    """Where a row is."""

    uri: str
    number: int
    """From 1."""
    unit: str = "line"
    """What the number counts: lines of a text file, rows of a binary one."""

    def __str__(self) -> str:
        """For messages."""
        return f"{self.uri}, {self.unit} {self.number}"


class Row(NamedTuple):
    """The fields of a row, and where it is in its file."""

    fields: Mapping[str, Any]
    place: Place


class Line(NamedTuple):
    """A row that is not parsed yet, so that another process can do it."""

    content: bytes
    place: Place
    parse: Callable[[bytes, Place], "Row | BrokenRow"]
    """A function of the module of the file format."""


class BrokenRow(NamedTuple):
    """A row without fields: what stands there instead, and why it is no row. Those after it can be read."""

    content: Any
    place: Place
    error: RowError


RawRow = Row | BrokenRow | Line


def parsed(row: RawRow) -> Row | BrokenRow:
    """The row, parsed where it was not."""
    return row.parse(row.content, row.place) if isinstance(row, Line) else row
