"""A queue of keys: a key that is enqueued many times is worked on once, and never by two workers at a time."""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from tuneyard_operator.machinery import logs, metrics
from tuneyard_operator.machinery.errors import delay, described, reason

Key = TypeVar("Key", bound=Hashable)

log = logging.getLogger(__name__)


class Lanes(Generic[Key]):
    """First in, first out within a lane. The lanes are served in turn, so that a long one delays no other."""

    def __init__(self) -> None:
        self._lanes: dict[str, deque[Key]] = {}  # the lanes that are not empty; the first is served next
        self._filled = asyncio.Semaphore(0)

    def put(self, lane: str, key: Key) -> None:
        self._lanes.setdefault(lane, deque()).append(key)
        self._filled.release()

    async def get(self) -> Key:
        await self._filled.acquire()
        lane = next(iter(self._lanes))
        keys = self._lanes.pop(lane)
        key = keys.popleft()
        if keys:
            self._lanes[lane] = keys
        return key

    def depths(self) -> dict[str, int]:
        return {lane: len(keys) for lane, keys in self._lanes.items()}


class WorkQueue(Generic[Key]):
    """`work` returns the seconds after which to requeue the key, or None to wait until it is enqueued.

    An exception of `work` is logged, and the key is requeued after a delay that depends on the exception and the number
    of failures, or as soon as it is enqueued. Keys of the same `lane` wait for each other.
    """

    def __init__(
        self, work: Callable[[Key], Awaitable[float | None]], workers: int = 8, lane: Callable[[Key], str] = str
    ) -> None:
        self._work = work
        self._workers = workers
        self._lane = lane
        self._due: Lanes[Key] = Lanes()
        self._queued: dict[Key, float] = {}  # and when they were enqueued
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._running: dict[Key, float] = {}  # and when the work began
        self._enqueued: set[Key] = set()  # while they were being worked on
        self._failures: dict[Key, int] = {}
        self._began: float | None = None

    def enqueue(self, key: Key, after: float = 0.0) -> None:
        """Makes the key due after some seconds, unless it is due earlier already."""
        if after > 0:
            self._schedule(key, after)
        elif key in self._running:
            self._enqueued.add(key)
        elif key not in self._queued:
            self._cancel_timer(key)
            self._queued[key] = _now()
            self._due.put(self._lane(key), key)

    async def run(self) -> None:
        """Runs until it is cancelled."""
        self._began = _now()
        async with asyncio.TaskGroup() as group:
            for _ in range(self._workers):
                group.create_task(self._worker())

    def oldest(self) -> float:
        """Seconds for which the most delayed key has been due or worked on; 0 before the work began."""
        times = [*self._queued.values(), *self._running.values()]
        return _now() - max(self._began, min(times)) if times and self._began is not None else 0.0

    def depths(self) -> dict[str, int]:
        """Keys that are due, by lane."""
        return self._due.depths()

    async def _worker(self) -> None:
        while True:
            key = await self._due.get()
            del self._queued[key]
            self._running[key] = _now()
            with logs.about(key):
                requeue_after = await self._work_on(key)
            del self._running[key]
            if key in self._enqueued:
                self._enqueued.remove(key)
                self.enqueue(key, requeue_after or 0 if key in self._failures else 0)
            elif requeue_after is not None:
                self.enqueue(key, requeue_after)

    async def _work_on(self, key: Key) -> float | None:
        lane = self._lane(key)
        try:
            with metrics.RECONCILES.labels(lane).time():
                requeue_after = await self._work(key)
        except Exception as error:
            failures = self._failures[key] = self._failures.get(key, 0) + 1
            seconds = delay(error, failures, random.random())  # noqa: S311 - not a secret
            metrics.RETRIES.labels(lane, reason(error)).inc()
            log.warning("%s; retry in %.1f s", described(error), seconds)
            log.debug("traceback", exc_info=True)
            return seconds
        self._failures.pop(key, None)
        return requeue_after

    def _schedule(self, key: Key, after: float) -> None:
        loop = asyncio.get_running_loop()
        timer = self._timers.get(key)
        if timer is None or timer.when() > loop.time() + after:
            self._cancel_timer(key)
            self._timers[key] = loop.call_later(after, self._fire, key)

    def _fire(self, key: Key) -> None:
        self._timers.pop(key, None)
        self.enqueue(key)

    def _cancel_timer(self, key: Key) -> None:
        if timer := self._timers.pop(key, None):
            timer.cancel()


def _now() -> float:
    return asyncio.get_running_loop().time()
