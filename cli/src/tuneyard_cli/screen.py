"""How things look: a terminal's width and colours, or plain long lines for a pipe."""

import sys
from collections.abc import Iterable, Mapping
from typing import IO, Final

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

PIPE_WIDTH: Final = 2000  # columns: a message stays on its line
STYLES: Final[Mapping[str, str]] = {
    "Succeeded": "green",
    "Adopted": "green",
    "Available": "green",
    "passed": "green",
    "Running": "cyan",
    "Failed": "bold red",
    "failed": "bold red",
    "Unavailable": "bold red",
    "Degraded": "yellow",
    "Pending": "dim",
}


def console(file: IO[str] | None = None) -> Console:
    """What comes from the cluster is shown as it is: no markup, no emoji."""
    width = None if (file or sys.stdout).isatty() else PIPE_WIDTH
    return Console(file=file, width=width, markup=False, emoji=False, highlight=False)


def state(word: str) -> Text:
    return Text(word, STYLES.get(word, ""))


def table(*columns: str) -> Table:
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="dim")
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def facts(rows: Iterable[tuple[str, RenderableType]]) -> Table:
    """Names and values; a row without a name continues the one above."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for label, value in rows:
        grid.add_row(label, value)
    return grid
