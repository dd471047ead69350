"""A queue of keys: a key that is woken many times is worked on once, and never by two workers at a time."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Hashable
from typing import Final, Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

FIRST_DELAY: Final = 0.5  # seconds after a first failure; doubles with each further one
LONGEST_DELAY: Final = 120.0

log = logging.getLogger(__name__)


def backoff(failures: int, jitter: float) -> float:
    """Seconds to wait after that many failures in a row; `jitter` of 0 to 1 spreads those that failed together."""
    return float(min(LONGEST_DELAY, FIRST_DELAY * 2 ** (failures - 1)) * (0.75 + 0.5 * jitter))


class WorkQueue(Generic[Key]):
    """`work` returns in how many seconds the key is due again, or None: when it is woken.

    An exception of `work` is logged, and the key is due again after a growing delay.
    """

    def __init__(self, work: Callable[[Key], Awaitable[float | None]], workers: int = 8) -> None:
        self._work = work
        self._workers = workers
        self._due: asyncio.Queue[Key] = asyncio.Queue()
        self._queued: dict[Key, float] = {}  # since when
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._running: dict[Key, float] = {}  # since when
        self._woken: set[Key] = set()  # while they were being worked on
        self._failures: dict[Key, int] = {}
        self._began = float("inf")  # before, keys gather and nobody is late

    def wake(self, key: Key, after: float = 0.0) -> None:
        """Makes the key due; an earlier time that it already has stays."""
        if after > 0:
            self._schedule(key, after)
        elif key in self._running:
            self._woken.add(key)
        elif key not in self._queued:
            self._forget_timer(key)
            self._queued[key] = _now()
            self._due.put_nowait(key)

    async def run(self) -> None:
        """Works until it is cancelled."""
        self._began = _now()
        async with asyncio.TaskGroup() as group:
            for _ in range(self._workers):
                group.create_task(self._worker())

    def oldest(self) -> float:
        """Seconds for which the most delayed key has been due or worked on; 0 when there is none."""
        since = [*self._queued.values(), *self._running.values()]
        return max(0.0, _now() - max(self._began, min(since))) if since else 0.0

    async def _worker(self) -> None:
        while True:
            key = await self._due.get()
            del self._queued[key]
            self._running[key] = _now()
            again = await self._work_on(key)
            del self._running[key]
            if key in self._woken:
                self._woken.remove(key)
                self.wake(key, 0 if key not in self._failures else again or 0)
            elif again is not None:
                self.wake(key, again)

    async def _work_on(self, key: Key) -> float | None:
        try:
            again = await self._work(key)
        except Exception as error:
            failures = self._failures[key] = self._failures.get(key, 0) + 1
            delay = backoff(failures, random.random())  # noqa: S311 - not a secret
            log.warning("%s: %s; again in %.1f s", key, error or type(error).__name__, delay)
            log.debug("%s", key, exc_info=True)
            return delay
        self._failures.pop(key, None)
        return again

    def _schedule(self, key: Key, after: float) -> None:
        loop = asyncio.get_running_loop()
        timer = self._timers.get(key)
        if timer is None or timer.when() > loop.time() + after:
            self._forget_timer(key)
            self._timers[key] = loop.call_later(after, self._ring, key)

    def _ring(self, key: Key) -> None:
        self._timers.pop(key, None)
        self.wake(key)

    def _forget_timer(self, key: Key) -> None:
        if timer := self._timers.pop(key, None):
            timer.cancel()


def _now() -> float:
    return asyncio.get_running_loop().time()
