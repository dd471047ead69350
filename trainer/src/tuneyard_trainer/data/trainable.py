"""Which kinds of examples a job trains: those that its backend knows; and either pairs of answers or none."""

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from tuneyard_api import reasons
from tuneyard_api.kinds.training import Training
from tuneyard_api.registry import BACKENDS
from tuneyard_trainer.data.examples import Chat, Example, Preference, RowError, Text
from tuneyard_trainer.data.source import KnownRow

NAMES: Final[dict[type[Example], str]] = {Chat: "chat", Text: "text", Preference: "preference"}
"""As tuneyard_api.registry.Backend.rows has them."""


def require_trainable(
    rows: Iterable[KnownRow], training: Training, on_error: Callable[[RowError, KnownRow], None]
) -> Iterator[KnownRow]:
    """The rows that the job trains; the others are given to `on_error`."""
    for row in rows:
        is_pair = isinstance(row.example, Preference)
        if (name := NAMES[type(row.example)]) not in BACKENDS[training.backend].rows:
            on_error(_unknown(name, training.backend), row)
        elif is_pair != (training.dpo is not None):
            on_error(_of_the_other_kind(is_pair=is_pair), row)
        else:
            yield row


def _unknown(name: str, backend: str) -> RowError:
    others = [other for other, entry in BACKENDS.items() if name in entry.rows]
    instead = f"set training.backend to {' or '.join(others)}, or " if others else ""
    advice = f"For the backend {backend}, {instead}write the chosen answer as completion and remove the other"
    return RowError(reasons.INVALID_ROW, f"the backend {backend} does not train rows of the format {name}", advice)


def _of_the_other_kind(*, is_pair: bool) -> RowError:
    if is_pair:
        what, advice = "a pair of answers, which only training.dpo trains", "Set training.dpo: {} for a job of pairs"
    else:
        what, advice = "no pair of answers, as training.dpo trains", "Remove training.dpo, or write prompt, chosen and"
        advice += " rejected"
    return RowError(reasons.INVALID_ROW, what, advice)
