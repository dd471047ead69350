"""JSON Lines: one JSON object on each line, in UTF-8. Blank lines are skipped."""

import codecs
import json
from collections.abc import Iterator
from typing import IO, Any, Final

from tuneyard_api import reasons
from tuneyard_trainer.data.examples import RowError
from tuneyard_trainer.data.readers.encodings import not_utf8
from tuneyard_trainer.data.readers.json_objects import as_object, pairs
from tuneyard_trainer.data.readers.row import BrokenRow, Line, Place, Row
from tuneyard_trainer.data.readers.values import ROW_BYTES, too_large

_DECODER: Final = json.JSONDecoder(object_pairs_hook=pairs)


def read(stream: IO[bytes], uri: str) -> Iterator[Line | BrokenRow]:
    number = 0
    while line := stream.readline(ROW_BYTES + 1):
        number += 1
        place = Place(uri, number)
        if len(line) > ROW_BYTES:
            while line and not line.endswith(b"\n"):
                line = stream.readline(ROW_BYTES)
            yield BrokenRow("", place, too_large())
        elif line.strip():
            yield Line(line, place, row_of)


def row_of(line: bytes, place: Place) -> Row | BrokenRow:
    """The row in a line."""
    try:
        return Row(parse(line.removeprefix(codecs.BOM_UTF8)), place)
    except RowError as error:
        return BrokenRow(line.decode(errors="backslashreplace").rstrip("\r\n"), place, error)


def parse(line: bytes) -> dict[str, Any]:
    """One line as a JSON object.

    Raises:
        RowError: the line is something else; names the column.
    """
    try:
        return as_object(_DECODER.decode(line.decode()))
    except UnicodeDecodeError as error:
        raise not_utf8(error, f"byte {error.start + 1}") from error
    except json.JSONDecodeError as error:
        raise RowError(
            reasons.INVALID_JSON, f"not JSON: {error.msg.removesuffix(' at')}", _advice(line), f"column {error.colno}"
        ) from error
    except (RecursionError, ValueError) as error:  # ValueError: a number of thousands of digits
        what = "nested too deeply" if isinstance(error, RecursionError) else "a number has too many digits"
        raise RowError(reasons.INVALID_JSON, what, "Write one JSON object per line, in UTF-8.") from error


def _advice(line: bytes) -> str:
    if line.lstrip().startswith(b"{'"):
        return "This is how Python prints a dict: write the rows with json.dumps."
    if line.rstrip().endswith(b"},"):
        return "Lines of JSON Lines have no comma between them: remove it, or put [ and ] around all rows."
    return "Write one JSON object per line, in UTF-8."
