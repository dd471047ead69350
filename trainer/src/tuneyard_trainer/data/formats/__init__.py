"""Row formats: a new one is one file and one line here."""

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from tuneyard_api import reasons
from tuneyard_trainer.data.examples import Messages, RowError
from tuneyard_trainer.data.formats import alpaca, messages, prompt_completion

Row = Mapping[str, Any]


class Format(NamedTuple):
    """Whether a row looks like it, how to make messages of it, and what a row must look like, in words."""

    matches: Callable[[Row], bool]
    read: Callable[[Row], Messages]
    shape: str


FORMATS: Final[dict[str, Format]] = {
    "messages": Format(messages.matches, messages.read, messages.SHAPE),
    "alpaca": Format(alpaca.matches, alpaca.read, alpaca.SHAPE),
    "prompt-completion": Format(prompt_completion.matches, prompt_completion.read, prompt_completion.SHAPE),
}


def detect(row: Row) -> str:
    """The name of the first format that the row looks like.

    Raises:
        RowError: it looks like none.
    """
    for name, each in FORMATS.items():
        if each.matches(row):
            return name
    shapes = "; ".join(each.shape for each in FORMATS.values())
    raise RowError(
        reasons.INVALID_ROW,
        f"the fields {', '.join(sorted(map(str, row))) or '(none)'} are of no known format",
        f"Use one of: {shapes}; or map your fields in dataset.train[].columns",
    )


def renamed(row: Row, columns: Mapping[str, str]) -> Row:
    """The row with the format's field names; `columns` maps them to the row's own."""
    taken = set(columns.values())
    rest = {name: value for name, value in row.items() if name not in taken}
    return rest | {field: row[column] for field, column in columns.items() if column in row}
