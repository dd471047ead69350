"""Work on the rows of a data set in processes of their own: its parts go out in blocks, results come in their order.

The processes are forked from a server without threads and without data, which has imported the work's module.
"""

import base64
import contextlib
import gc
import multiprocessing
import os
import pickle
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import forkserver
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar

from tuneyard_api import reasons
from tuneyard_trainer.runtime.cgroup import oom_kills
from tuneyard_trainer.runtime.errors import DoesNotFit, StageError

PRELOAD: Final = "tuneyard_trainer.runtime.preload"
FIRST: Final = "TUNEYARD_FIRST"
"""The variable from which this module has what it calls."""
BYTES_PER_PROCESS: Final = 8 * 2**20
"""Of data; with less, a process takes longer to start than it saves."""
AHEAD: Final = 2
"""Blocks for each process that wait for it, or whose results wait."""
GARBAGE: Final = 50_000
"""Objects after which a process looks for garbage: a block makes about as many, and few of them are in cycles."""

Block = TypeVar("Block")
Result = TypeVar("Result")

_given: list[Callable[[Any], Any]] = []
"""The work of this process, where it was started for some."""


def process_count(threads: int | None, size: int) -> int:
    """How many processes work on `size` bytes: no more than there are CPUs, and one where their number is not known."""
    return min(threads or 1, 1 + size // BYTES_PER_PROCESS)


def start_server(modules: Iterable[str], first: Callable[[], object] | None = None) -> None:
    """Starts the server that processes are forked from, unless it runs already. It imports while this process goes on.

    Args:
        modules: those of all work that will be done.
        first: what the server calls once. The processes share the memory of what this leaves.
    """
    multiprocessing.get_context("forkserver").set_forkserver_preload([*modules, PRELOAD])
    os.environ[FIRST] = base64.b64encode(pickle.dumps(first)).decode()
    forkserver.ensure_running()
    del os.environ[FIRST]


class Workers(Generic[Block, Result]):
    """A context in which blocks are worked on: by other processes, or by this one where `processes` is 1.

    Args:
        work: what turns a block into its result. It is sent to each process once, so it can be pickled and holds no
            data.
    """

    def __init__(self, work: Callable[[Block], Result], processes: int) -> None:
        self._work = work
        self._processes = processes
        self._pool: ProcessPoolExecutor | None = None
        self._threshold = gc.get_threshold()

    def __enter__(self) -> Self:
        if self._processes > 1:
            start_server([type(self._work).__module__])
            context = multiprocessing.get_context("forkserver")
            self._pool = ProcessPoolExecutor(self._processes, context, _begin, (self._work,))
            gc.set_threshold(GARBAGE)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            gc.set_threshold(*self._threshold)
            self._pool.shutdown(cancel_futures=True)

    def map(self, blocks: Iterable[Block]) -> Iterator[Result]:
        """The results in the order of the blocks, some of which are read ahead.

        Raises:
            DoesNotFit: the kernel has killed a process for its memory.
            StageError: a process has crashed.
            Exception: what the work has raised, or the blocks, once the results before it were taken.
        """
        if self._pool is None:
            yield from map(self._work, blocks)
            return
        waiting: deque[Future[Result]] = deque()
        failures: list[Exception] = []
        killed_before = oom_kills()
        for block in _until_failure(blocks, failures):
            waiting.append(self._pool.submit(_do, block))
            if len(waiting) > AHEAD * self._processes:
                yield _result(waiting.popleft(), killed_before)
        while waiting:
            yield _result(waiting.popleft(), killed_before)
        if failures:
            raise failures[0]


def _until_failure(blocks: Iterable[Block], failures: list[Exception]) -> Iterator[Block]:
    """The blocks; what they raise is left in `failures`, as what was read before it comes first."""
    try:
        yield from blocks
    except Exception as error:
        failures.append(error)


def _result(future: "Future[Result]", killed_before: int | None) -> Result:
    try:
        return future.result()
    except BrokenProcessPool as error:
        if killed_before != oom_kills():
            raise DoesNotFit(
                reasons.OUT_OF_MEMORY,
                "A process that worked on rows was killed: it needed more memory than the pod may use.",
                "Raise resources.limits.memory, or lower the CPUs in resources: each has a process.",
            ) from error
        raise StageError(
            reasons.STAGE_CRASHED, "A process that worked on rows ended before it was done.", "See the pod's log."
        ) from error


def _begin(work: Callable[[Any], Any]) -> None:
    """Makes this process ready for blocks."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the stage too, which ends its processes in order
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # each process has one CPU
    gc.freeze()  # what was imported lives as long as this process
    gc.set_threshold(GARBAGE)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _given.append(work)


def _end_with_parent() -> None:
    """No process outlives a stage that was killed."""
    if parent := multiprocessing.parent_process():
        parent.join()
        with contextlib.suppress(OSError):
            os._exit(1)


def _do(block: Any) -> Any:
    return _given[0](block)
