"""Which kinds of examples a job trains: those that its backend knows; and pairs of answers only among themselves."""

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from tuneyard_api import reasons
from tuneyard_api.registry import BACKENDS
from tuneyard_trainer.data.examples import Chat, Example, Preference, RowError, Text
from tuneyard_trainer.data.source import SourceRow

NAMES: Final[dict[type[Example], str]] = {Chat: "chat", Text: "text", Preference: "preference"}
"""As tuneyard_api.registry.Backend.rows has them."""


def require_trainable(
    rows: Iterable[SourceRow], backend: str, on_error: Callable[[RowError, SourceRow], None]
) -> Iterator[SourceRow]:
    """The rows that can be trained together; the others are given to `on_error`.

    Args:
        backend: training.backend.
    """
    pairs: bool | None = None
    for row in rows:
        is_pair = isinstance(row.example, Preference)
        if (name := NAMES[type(row.example)]) not in BACKENDS[backend].rows:
            on_error(_unknown(name, backend), row)
        elif pairs not in (None, is_pair):
            on_error(_mixed(is_pair=is_pair), row)
        else:
            pairs = is_pair
            yield row


def _unknown(name: str, backend: str) -> RowError:
    others = [other for other, entry in BACKENDS.items() if name in entry.rows]
    instead = f"set training.backend to {' or '.join(others)}, or " if others else ""
    advice = f"For the backend {backend}, {instead}write the chosen answer as completion and remove the other"
    return RowError(reasons.INVALID_ROW, f"the backend {backend} does not train rows of the format {name}", advice)


def _mixed(*, is_pair: bool) -> RowError:
    what = "a pair of answers among rows that are none" if is_pair else "no pair of answers, as the rows before are"
    return RowError(reasons.INVALID_ROW, what, "Train pairs of answers in a job of their own")
