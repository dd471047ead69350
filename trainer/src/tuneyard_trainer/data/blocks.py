"""Rows in blocks: what one process is given at a time."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TypeVar

from tuneyard_trainer.data.readers.row import Line, RawRow
from tuneyard_trainer.runtime.errors import StageError

ROWS: Final = 256
BYTES: Final = 2**20
"""A block ends with the row that reaches it, so that long rows are few at once."""

Row = TypeVar("Row")


def in_blocks(rows: Iterable[Row], size: Callable[[Row], int]) -> Iterator[list[Row]]:
    """The rows in order, cut where ROWS or BYTES are reached; `size` tells the bytes of a row.

    Raises:
        StageError: what `rows` has raised, after the rows before it.
    """
    block: list[Row] = []
    total = 0
    try:
        for row in rows:
            block.append(row)
            total += size(row)
            if len(block) == ROWS or total >= BYTES:
                yield block
                block, total = [], 0
    except StageError:
        if block:
            yield block
        raise
    if block:
        yield block


def raw_size(row: RawRow) -> int:
    """The bytes of a row, or the characters of its texts."""
    return len(row.content) if isinstance(row, Line) else _characters(row[0])


def _characters(value: Any) -> int:
    if isinstance(value, (str, bytes)):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_characters, value.values()))
    return sum(map(_characters, value)) if isinstance(value, (list, tuple)) else 0
