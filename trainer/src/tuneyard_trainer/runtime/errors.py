"""The errors that end a stage, with their exit codes.

StageError          1   a failure without a better name
├── BadInput       65   the data, the spec or the store's setup is wrong: never retried
├── TryAgain       75   the pod was preempted, or the store is unavailable: retried, not charged
└── DoesNotFit     78   not enough memory
"""

import contextlib
import errno
import os
from collections.abc import Iterator
from typing import ClassVar, Final

from tuneyard_api import names, reasons
from tuneyard_api.contracts.termination import StageReport, shortened
from tuneyard_store.errors import StoreError


class StageError(Exception):
    """A failure with a reason (one word), a message (what is wrong, and where) and advice (what to do).

    `report` is what the operator gets of a result that the stage has found before it failed.
    """

    exit_code: ClassVar[int] = names.EXIT_UNKNOWN

    def __init__(self, reason: str, message: str, advice: str = "", report: StageReport | None = None) -> None:
        message, advice = printable(message), printable(advice)
        super().__init__(f"{sentence(message)} {sentence(advice)}".strip())
        self.reason = reason
        self.message = message
        self.advice = advice
        self.report = report

    def __reduce__(self) -> tuple[type["StageError"], tuple[str, str, str, StageReport | None]]:
        """So that it passes from one process to another."""
        return type(self), (self.reason, self.message, self.advice, self.report)


class BadInput(StageError):
    exit_code = names.EXIT_BAD_INPUT


class TryAgain(StageError):
    exit_code = names.EXIT_TRY_AGAIN


class DoesNotFit(StageError):
    exit_code = names.EXIT_DOES_NOT_FIT


def from_store(error: StoreError) -> StageError:
    """The stage's error for an error of the store."""
    kind = TryAgain if error.transient else BadInput
    return kind(error.reason, error.message, error.advice)


NO_SPACE: Final = os.strerror(errno.ENOSPC)
DISK_ADVICE: Final = (
    "Use nodes with more disk, or raise resources.limits.ephemeral-storage where it is set; docs/sizing.md tells how "
    "much is needed."
)
LIBRARY_CHARACTERS: Final = 300
"""Of a library's own message stay so many."""
NOT_A_FILES: Final = frozenset({"OutOfMemoryError", "AcceleratorError"})
"""Errors of torch that no file causes."""


@contextlib.contextmanager
def blamed_on(what: str, reason: str, advice: str) -> Iterator[None]:
    """Whatever a library raises in the block is a BadInput: it was given a user's file, and `what` names that.

    A panic of a library in Rust is no Exception, so it is told by its name. Errors that have a reason pass, and those
    that no file causes.
    """
    try:
        yield
    except (StageError, StoreError, MemoryError):
        raise
    except BaseException as error:
        if full := disk_full(error):
            raise full from error
        name = type(error).__name__
        if name in NOT_A_FILES or (not isinstance(error, Exception) and name != "PanicException"):
            raise
        text = shortened(" ".join(str(error).split()), LIBRARY_CHARACTERS) or name
        raise BadInput(reason, f"{what}: {text}", advice) from error


def disk_full(error: BaseException) -> StageError | None:
    """The stage's error for one that says that the disk is full; libraries in Rust and C only say it in words."""
    text = " ".join(str(error).split())
    if getattr(error, "errno", None) != errno.ENOSPC and NO_SPACE not in text:
        return None
    message = f"The disk of the pod is full: {shortened(text, LIBRARY_CHARACTERS)}"
    return StageError(reasons.DISK_FULL, message, DISK_ADVICE)


def preempted() -> TryAgain:
    """The error of a stage that was asked to stop before it had finished."""
    return TryAgain(reasons.PREEMPTED, "The stage was stopped before it had finished.", "It is restarted.")


def sentence(text: str) -> str:
    """The text with a full stop, if it has no end yet."""
    text = text.strip()
    return text if not text or text.endswith((".", "!", "?")) else f"{text}."


def printable(text: str) -> str:
    """The text as every console and every JSON parser accepts it: half a character (a lone surrogate) is escaped."""
    return text.encode("utf-8", "backslashreplace").decode()
