"""JSON Lines: one JSON object on each line, in UTF-8. Blank lines are skipped."""

import codecs
import json
from collections.abc import Iterator
from typing import IO, Any

from tuneyard_api import reasons
from tuneyard_trainer.data.readers.row import Row
from tuneyard_trainer.runtime.errors import BadInput


def read(stream: IO[bytes], uri: str) -> Iterator[Row]:
    for number, line in enumerate(stream, start=1):
        if line.strip():
            yield Row(parse(line.removeprefix(codecs.BOM_UTF8), uri, number), uri, number)


def parse(line: bytes, uri: str, number: int) -> dict[str, Any]:
    """One line as a JSON object.

    Raises:
        BadInput: the line is something else; names line and column.
    """
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError as error:
        where, what = f"line {number}, byte {error.start + 1}", "not UTF-8"
    except json.JSONDecodeError as error:
        where, what = f"line {number}, column {error.colno}", f"not JSON: {error.msg.removesuffix(' at')}"
    except (RecursionError, ValueError) as error:  # ValueError: a number of thousands of digits
        what = "nested too deeply" if isinstance(error, RecursionError) else "a number has too many digits"
        where = f"line {number}"
    else:
        if isinstance(row, dict):
            return row
        raise BadInput(
            reasons.INVALID_ROW,
            f"{uri}, line {number}: {type(row).__name__} instead of an object",
            "Write one JSON object per line, in {...}.",
        )
    raise BadInput(reasons.INVALID_JSON, f"{uri}, {where}: {what}", "Write one JSON object per line, in UTF-8.")
