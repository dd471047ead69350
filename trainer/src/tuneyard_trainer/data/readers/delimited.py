"""CSV and TSV: the first line names the columns. Quotes and line ends within a cell are as RFC 4180 has them."""

import codecs
import csv
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from typing import IO, Final

from tuneyard_api import reasons
from tuneyard_trainer.data.examples import RowError
from tuneyard_trainer.data.readers.encodings import not_utf8
from tuneyard_trainer.data.readers.row import BrokenRow, Place, Row
from tuneyard_trainer.data.readers.values import ROW_BYTES, too_large
from tuneyard_trainer.runtime.errors import BadInput

DELIMITERS: Final = (",", ";", "\t", "|")
"""Spreadsheets write a semicolon where the comma is a decimal point."""


def read(stream: IO[bytes], uri: str) -> Iterator[Row | BrokenRow]:
    """A cell without text is null: there is no other way to leave one out."""
    lines = _lines(stream, uri)
    first = next(lines, "")
    csv.field_size_limit(ROW_BYTES)
    rows = csv.reader(chain([first], lines), delimiter=_delimiter(first), strict=True)
    try:
        names = _names(next(rows, []), uri)
        begins = rows.line_num + 1
        for cells in rows:
            place, begins = Place(uri, begins), rows.line_num + 1
            if len(cells) == len(names):
                yield Row({name: cell or None for name, cell in zip(names, cells, strict=True)}, place)
            elif cells:
                yield BrokenRow(cells, place, _other_length(len(cells), len(names)))
    except csv.Error as error:
        raise BadInput(
            reasons.INVALID_ROW,
            f"{uri}, line {rows.line_num}: not CSV: {error}",
            'Close each quote, and write a quote within a cell twice: "".',
        ) from error


def _lines(stream: IO[bytes], uri: str) -> Iterator[str]:
    number = 0
    while line := stream.readline(ROW_BYTES + 1):
        number += 1
        if len(line) > ROW_BYTES:
            raise too_large().at(str(Place(uri, number)))
        try:
            yield line.removeprefix(codecs.BOM_UTF8).decode()
        except UnicodeDecodeError as error:
            raise not_utf8(error, f"byte {error.start + 1}").at(str(Place(uri, number))) from error


def _delimiter(header: str) -> str:
    return max(DELIMITERS, key=header.count)


def _names(header: list[str], uri: str) -> list[str]:
    """The names of the columns.

    Raises:
        BadInput: one is empty, or stands there twice.
    """
    names = [name.strip() for name in header]
    twice = next((name for name, times in Counter(names).items() if times > 1), None)
    if twice is not None or "" in names:
        what = f"the column {twice} stands there twice" if twice else "a column has no name"
        raise BadInput(
            reasons.INVALID_ROW, f"{uri}, line 1: {what}", "The first line names the columns: give each one a name."
        )
    return names


def _other_length(cells: int, names: int) -> RowError:
    return RowError(
        reasons.INVALID_ROW,
        f"it has {cells} cells, and the first line names {names} columns",
        "Put cells that contain the delimiter or a line end in quotes",
    )
