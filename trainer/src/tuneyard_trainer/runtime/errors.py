"""What can end a stage, and with which exit code.

StageError          1   a failure that we could not name better
├── BadInput       65   the data, the spec or the store's setup is wrong: never tried again
├── TryAgain       75   preempted, or the store is away: tried again, not charged
└── DoesNotFit     78   too little memory
"""

from typing import Any, ClassVar

from tuneyard_api import names
from tuneyard_store.errors import StoreError


class StageError(Exception):
    """Names what is wrong (`reason`), says it (`message`: what and where) and what to do (`advice`).

    `result` is what the stage has found out all the same.
    """

    exit_code: ClassVar[int] = names.EXIT_UNKNOWN

    def __init__(self, reason: str, message: str, advice: str = "", result: dict[str, Any] | None = None) -> None:
        super().__init__(f"{sentence(message)} {sentence(advice)}".strip())
        self.reason = reason
        self.message = message
        self.advice = advice
        self.result = result


class BadInput(StageError):
    exit_code = names.EXIT_BAD_INPUT


class TryAgain(StageError):
    exit_code = names.EXIT_TRY_AGAIN


class DoesNotFit(StageError):
    exit_code = names.EXIT_DOES_NOT_FIT


def from_store(error: StoreError) -> StageError:
    """The stage's error for one of the store's."""
    kind = TryAgain if error.transient else BadInput
    return kind(error.reason, error.message, error.advice)


def sentence(text: str) -> str:
    """The text with a full stop, if it has no end yet."""
    text = text.strip()
    return text if not text or text.endswith((".", "!", "?")) else f"{text}."
