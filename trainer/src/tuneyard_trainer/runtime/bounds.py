"""Bounds on the time and the memory of code that a user has brought, such as a chat template.

Both are the operating system's: a timer whose signal raises an error in the running Python code, and a limit on the
process's address space, beyond which an allocation fails. Where they do not exist (outside the main thread, or on
another system than Linux) the code runs without bounds.
"""

import contextlib
import os
import resource
import signal
import threading
import time
from functools import cache
from types import FrameType, TracebackType
from typing import Any, Final, Self

PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


class TooSlow(Exception):
    """The time is used up."""


class Bounded:
    """A context that runs in at most so much CPU time (in seconds) and so much additional memory (in bytes).

    Work of several pieces calls `again` before each of them: each has all of the time, the memory is for all of them.

    Raises:
        TooSlow: the time is used up.
        MemoryError: the memory is.
    """

    def __init__(self, seconds: float, memory: int) -> None:
        self._seconds = seconds
        self._memory = memory

    def again(self) -> None:
        """The next piece begins."""
        self._begun = time.process_time()

    def __enter__(self) -> Self:
        self.again()
        self._limits = resource.getrlimit(resource.RLIMIT_AS)
        self._handler: Any = None
        if (file := _statm(os.getpid())) is not None:
            used = int(os.pread(file, 64, 0).split(b" ", 1)[0]) * PAGE_BYTES
            _lower(self._limits, used + self._memory)
        if threading.current_thread() is threading.main_thread():
            self._handler = signal.signal(signal.SIGPROF, self._on_timer)
            # Again each second: the code may catch the first one, and pieces begin later.
            signal.setitimer(signal.ITIMER_PROF, self._seconds, min(1.0, self._seconds))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._handler is not None:
                signal.setitimer(signal.ITIMER_PROF, 0)
                signal.signal(signal.SIGPROF, self._handler)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, self._limits)

    def _on_timer(self, number: int, frame: FrameType | None) -> None:
        if time.process_time() - self._begun >= self._seconds:
            raise TooSlow


def _lower(limits: tuple[int, int], wanted: int) -> None:
    """Lowers the limit on the address space; one that is lower already stays."""
    soft, hard = limits
    if soft == resource.RLIM_INFINITY or soft > wanted:
        resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))


@cache
def _statm(process: int) -> int | None:
    """The open file that says how many pages this process has."""
    with contextlib.suppress(OSError):
        return os.open(f"/proc/{process}/statm", os.O_RDONLY | os.O_CLOEXEC)
    return None
