"""Row formats: a new one is one line in tuneyard_api.registry.DATA_FORMATS and one module here, found by its name."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Protocol, cast

from tuneyard_api import reasons
from tuneyard_api.registry import DATA_FORMATS, module_name
from tuneyard_trainer.data.examples import Example, RowError


class Format(Protocol):
    """A module that makes examples of rows."""

    SHAPE: str
    """What a row looks like, for messages."""

    def matches(self, fields: Mapping[str, Any]) -> bool:
        """Whether a row has the fields of this format."""
        ...

    def read(self, fields: Mapping[str, Any]) -> Example:
        """The example of a row.

        Raises:
            RowError: a field is missing or wrong.
        """
        ...


def load_format(name: str) -> Format:
    """The module of a format."""
    return cast(Format, import_module(f"{__name__}.{module_name(name)}"))


def detect(fields: Mapping[str, Any]) -> str:
    """The name of the first format whose fields the row has.

    Raises:
        RowError: no format matches.
    """
    formats = {name: load_format(name) for name in DATA_FORMATS}
    for name, form in formats.items():
        if form.matches(fields):
            return name
    shapes = "; ".join(form.SHAPE for form in formats.values())
    raise RowError(
        reasons.INVALID_ROW,
        f"the fields {', '.join(sorted(map(str, fields))) or '(none)'} are of no known format",
        f"Use one of: {shapes}; or map your fields in dataset.train[].columns",
    )


def renamed(fields: Mapping[str, Any], columns: Mapping[str, str]) -> Mapping[str, Any]:
    """The row with the format's field names; `columns` maps them to the row's own."""
    mapped = set(columns.values())
    others = {name: value for name, value in fields.items() if name not in mapped}
    return others | {name: fields[column] for name, column in columns.items() if column in fields}
