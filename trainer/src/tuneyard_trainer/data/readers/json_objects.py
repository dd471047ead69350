"""Objects of JSON as rows: no name stands twice in one."""

from typing import Any

from tuneyard_api import reasons
from tuneyard_trainer.data.examples import RowError


def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object_pairs_hook of json: an object whose names differ.

    Raises:
        RowError: a name stands twice, and json would take the last one in silence.
    """
    made = dict(items)
    if len(made) < len(items):
        names = [name for name, _ in items]
        twice = next(name for name in names if names.count(name) > 1)
        raise RowError(reasons.INVALID_ROW, f"the field {twice} stands there twice", "Keep one of the two")
    return made


def as_object(value: Any) -> dict[str, Any]:
    """Raises RowError when the value is no object."""
    if isinstance(value, dict):
        return value
    raise RowError(
        reasons.INVALID_ROW,
        f"{type(value).__name__} instead of an object",
        "Write each row as an object with named fields: {...}.",
    )
