"""Row formats: a new one is one line in tuneyard_api.registry.DATA_FORMATS and one module here, found by its name."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Final, Protocol, cast

from tuneyard_api import reasons
from tuneyard_api.registry import DATA_FORMATS, module_name
from tuneyard_trainer.data.examples import Example, RowError
from tuneyard_trainer.data.formats.fields import Fields, shown

SHOWN_FIELDS: Final = 20

# Rows that cannot be trained, by fields that they have, with what to do.
HINTS: Final[tuple[tuple[frozenset[str], str], ...]] = (
    (frozenset({"error"}), "This looks like the error message of a service: download the data again. "),
)


class Format(Protocol):
    """A module that makes examples of rows."""

    SHAPE: str
    """What a row looks like, for messages."""

    def matches(self, fields: Mapping[str, Any]) -> bool:
        """Whether a row has the fields of this format."""
        ...

    def read(self, fields: Fields) -> Example:
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
    hint = next((hint for names, hint in HINTS if names <= fields.keys()), _nested_rows(fields))
    shapes = "; ".join(form.SHAPE for form in formats.values())
    raise RowError(
        reasons.INVALID_ROW,
        f"the fields {listed(fields)} are of no known format",
        f"{hint}Use one of: {shapes}; or name your fields in columns of the data source: "
        "{prompt: FIELD, completion: FIELD}",
    )


def require(name: str, fields: Mapping[str, Any]) -> None:
    """Raises RowError when a row is of another known format than the one that the source says it has."""
    if load_format(name).matches(fields):
        return
    other = next((other for other in DATA_FORMATS if load_format(other).matches(fields)), None)
    if other:
        raise RowError(
            reasons.INVALID_ROW,
            f"the fields {listed(fields)} are of the format {other}, not {name}",
            f"Set the format of the data source to {other}, or to auto, which reads rows of several formats",
        )


def listed(names: Mapping[str, Any]) -> str:
    """The names of fields, for messages."""
    ordered = sorted(map(shown, names))
    more = f" and {len(ordered) - SHOWN_FIELDS} more" if len(ordered) > SHOWN_FIELDS else ""
    return (", ".join(ordered[:SHOWN_FIELDS]) or "(none)") + more


def _nested_rows(fields: Mapping[str, Any]) -> str:
    """What to do with all rows in a field of one object, as in {"data": [{...}, ...]}."""
    for name, value in fields.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            return f"If the rows are in the field {shown(name)}, write that list alone, or one row per line. "
    return ""


def renamed(fields: Mapping[str, Any], columns: Mapping[str, str]) -> Mapping[str, Any]:
    """The row with the format's field names; `columns` maps them to the row's own."""
    if not columns:
        return fields
    mapped = set(columns.values())
    others = {name: value for name, value in fields.items() if name not in mapped}
    return others | {name: fields[column] for name, column in columns.items() if column in fields}
