"""The data report on a terminal. Pure functions."""

from collections.abc import Iterator
from typing import Final

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from tuneyard_trainer.data.excerpt import excerpt
from tuneyard_trainer.reports.data_document import DataDocument, DroppedReason

EXAMPLE_CHARACTERS: Final = 160
NUMBERS: Final = ("ROWS", "ALL", "TRAINED")


def tables(data: DataDocument) -> Iterator[RenderableType]:
    """What became of the rows, what they were, and how long they are."""
    yield rows_table(data)
    if data.reading.formats:
        formats = _table("FORMAT", "ROWS", "SEEN BY ITS FIELDS", "FIRST ROW")
        for seen in data.reading.formats:
            formats.add_row(seen.format, _count(seen.rows), Text(seen.fields), Text(seen.first))
        yield formats
    if data.reading.unread:
        unread = _table("FIELD NOT READ", "ROWS")
        for name, rows in data.reading.unread.items():
            unread.add_row(Text(name), _count(rows))
        yield unread
    for note, times in data.reading.notes.items():
        yield Text(f"{times:,} {note}")
    if data.length_percentiles:
        yield lengths_table(data)


def rows_table(data: DataDocument) -> Table:
    """Rows in, dropped by reason with an example of each, and kept."""
    table = _table("", "ROWS", "SUCH AS")
    table.add_row("read", _count(data.rows_in), "")
    for item in data.reasons:
        table.add_row(Text(item.reason), _count(item.rows), _example(item))
    kept = ", ".join(f"{rows:,} for {split}" for split, rows in data.rows.items())
    table.add_row(Text("kept", "bold"), _count(data.rows_kept), kept)
    return table


def lengths_table(data: DataDocument) -> Table:
    """Tokens per row by percentile, and in all."""
    table = _table("TOKENS", *(f"P{percent}" for percent in data.length_percentiles), "ALL", "TRAINED")
    lengths = map(_count, data.length_percentiles.values())
    table.add_row("per row", *lengths, _count(data.tokens), _count(data.supervised_tokens))
    return table


def _example(item: DroppedReason) -> Text:
    lines = [": ".join(filter(None, (item.where, item.message))), excerpt(item.row, EXAMPLE_CHARACTERS)]
    return Text("\n".join(filter(None, lines)))


def _table(*columns: str) -> Table:
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim")
    for column in columns:
        is_number = column in NUMBERS or column[1:].isdigit()
        made.add_column(column, overflow="fold", justify="right" if is_number else "left")
    return made


def _count(number: int) -> str:
    return f"{number:,}"
