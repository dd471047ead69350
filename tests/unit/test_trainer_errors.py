"""Whatever a library raises over a user's file is a reason, and nothing else is."""

import errno
import logging

import pytest

from tuneyard_store.errors import StorageUnavailable
from tuneyard_trainer.runtime.errors import BadInput, StageError, TryAgain, blamed_on, preempted
from tuneyard_trainer.runtime.stage_runner import failure


class PanicException(BaseException):
    """As pyo3 names it."""


class OutOfMemoryError(RuntimeError):
    """As torch names it."""


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (KeyError("weight_map"), "x.json cannot be read: 'weight_map'"),
        (ValueError("two\nlines"), "x.json cannot be read: two lines"),
        (PanicException("a panic"), "x.json cannot be read: a panic"),
        (TypeError(), "x.json cannot be read: TypeError"),
        (RecursionError("deep"), "x.json cannot be read: deep"),
    ],
)
def test_blamed_on_a_file(error: BaseException, says: str) -> None:
    with pytest.raises(BadInput) as raised, blamed_on("x.json cannot be read", "InvalidModel", "Upload it again."):
        raise error
    assert (raised.value.message, raised.value.reason) == (says, "InvalidModel")
    assert raised.value.__cause__ is error


def test_long_messages_are_cut() -> None:
    with pytest.raises(BadInput) as raised, blamed_on("x.json", "InvalidModel", "Upload it again."):
        raise ValueError("a" * 10_000)
    assert len(raised.value.message) < 400


@pytest.mark.parametrize(
    "error",
    [
        preempted(),
        StorageUnavailable("down", "Wait."),
        MemoryError(),
        OutOfMemoryError("of the GPU"),
        KeyboardInterrupt(),
        SystemExit(1),
    ],
)
def test_not_blamed(error: BaseException) -> None:
    with pytest.raises(type(error)) as raised, blamed_on("x.json", "InvalidModel", "Upload it again."):
        raise error
    assert raised.value is error
    assert isinstance(preempted(), TryAgain)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "/work/model"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_full_disk_is_no_crash_and_no_file_of_the_user(error: Exception) -> None:
    outcome = failure(error, logging.getLogger("test"))
    assert (outcome.exit_code, outcome.reason) == (1, "DiskFull")
    assert "resources.limits.ephemeral-storage" in outcome.advice
    with pytest.raises(StageError, match="The disk of the pod is full") as raised, blamed_on("f", "InvalidFile", "x"):
        raise error
    assert raised.value.reason == "DiskFull"
