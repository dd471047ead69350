"""Informers: each lists one kind, then watches it for ever, and puts what it hears into the cache."""

import asyncio
import logging
import random
import time
from collections.abc import Iterable
from typing import Final

from tuneyard_api import names
from tuneyard_operator.machinery import metrics
from tuneyard_operator.machinery.cache import Cache
from tuneyard_operator.machinery.errors import ApiError, delay
from tuneyard_operator.machinery.kube import TIMEOUT_SECONDS, Kube, Source
from tuneyard_operator.machinery.objects import Json, uid, version

log = logging.getLogger(__name__)

MANAGED: Final = ",".join(f"{key}={value}" for key, value in names.MANAGED_BY.items())
SOURCES: Final = (
    Source("FineTuneJob"),
    Source("ModelServer"),
    Source("Job", labels=MANAGED),
    Source("Pod", labels=MANAGED),
    Source("Deployment", labels=MANAGED),
    # All of them: a ModelServer must not take over a Service that has its name and belongs to someone else.
    Source("Service"),
    Source("Event", fields="type=Warning,involvedObject.kind=Job"),
    Source("Event", fields="type=Warning,involvedObject.kind=Pod"),
)
# Seconds of one watch. Each renewal is a request, and in different minutes for each informer.
WATCH_SECONDS: Final = (600, 1200)
GRACE_SECONDS: Final = 60.0  # a busy process is late, but not dead
EMPTY_SECONDS: Final = 5.0  # a watch that ends sooner, and has told nothing, is a failure
# After so many failures in a row an informer gets no slower: without it the operator is blind, and there are few.
COUNTED_FAILURES: Final = 4


class Informer:
    def __init__(self, kube: Kube, source: Source, cache: Cache) -> None:
        self.source = source
        self._kube = kube
        self._cache = cache
        self._version = 0  # where to go on; 0: list first
        self._failures = 0
        self._due = time.monotonic() + GRACE_SECONDS  # by when it has got on, if it lives
        self.listed = asyncio.Event()  # once

    def stuck(self) -> bool:
        """Has neither ended nor begun a request for too long. Being refused, again and again, is not that."""
        return time.monotonic() > self._due

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            try:
                await self._step()
            except ApiError as error:
                self._version = after(error, self._version)
                self._failures = min(self._failures + 1, COUNTED_FAILURES)
                seconds = delay(error, self._failures, random.random())  # noqa: S311 - not a secret
                log.log(_level(error), "%s: %s; again in %.1f s", self.source.kind, error, seconds)
                self._expect(seconds)
                await asyncio.sleep(seconds)

    async def _step(self) -> None:
        if self._version:
            metrics.RESUMES.labels(self.source.kind).inc()
        else:
            await self._list()
        await self._watch()

    async def _list(self) -> None:
        found, rest, as_of = [], "", 0
        while True:
            self._expect(TIMEOUT_SECONDS)
            page = await self._kube.list_page(self.source, rest)
            for thing in page.items:
                self._cache.put(thing)
                found.append(uid(thing))
            as_of, rest = page.version, page.rest
            if not rest:
                break
        # Events are not compared: they expire by themselves, and only the newest about an object is kept.
        if self.source.kind != "Event":
            self._cache.keep_only(self.source.kind, self.source.namespace, found, as_of)
        self._version = as_of
        self.listed.set()

    async def _watch(self) -> None:
        seconds, began, heard = random.randint(*WATCH_SECONDS), time.monotonic(), False  # noqa: S311
        self._expect(seconds + TIMEOUT_SECONDS)
        async for event in self._kube.watch(self.source, self._version, seconds):
            self._version, heard = take(event, self.source.kind, self._cache), True
            self._failures = 0
        if not heard and time.monotonic() - began < EMPTY_SECONDS:
            raise ApiError(503, "WatchEnded", "the watch ended at once")
        self._failures = 0

    def _expect(self, seconds: float) -> None:
        self._due = time.monotonic() + seconds + GRACE_SECONDS


def take(event: Json, kind: str, cache: Cache) -> int:
    """Puts a watch's event into the cache; the version to go on from."""
    thing = event["object"] | {"kind": kind}
    if event["type"] == "DELETED":
        cache.remove(thing)
    elif event["type"] != "BOOKMARK":
        cache.put(thing)
    return version(thing)


def after(error: ApiError, since: int) -> int:
    """Where to go on after a failure: there, unless the API server has forgotten it."""
    return 0 if error.status == 410 else since


def _level(error: ApiError) -> int:
    """Only what a person may have to do something about is a warning."""
    return logging.INFO if error.status == 410 else logging.WARNING


class Informers:
    """One informer for each source, in each namespace that is looked after."""

    def __init__(self, kube: Kube, cache: Cache, namespaces: Iterable[str] = ()) -> None:
        places = tuple(namespaces) or ("",)
        self._all = [Informer(kube, each._replace(namespace=place), cache) for place in places for each in SOURCES]

    async def run(self) -> None:
        """Until it is cancelled; raises where an informer has met a mistake of ours."""
        async with asyncio.TaskGroup() as group:
            for each in self._all:
                group.create_task(each.run(), name=f"informer {each.source.kind}")

    async def synced(self) -> None:
        """Returns when all have listed."""
        for each in self._all:
            await each.listed.wait()

    def are_synced(self) -> bool:
        return all(each.listed.is_set() for each in self._all)

    def stuck(self) -> list[str]:
        return [each.source.kind for each in self._all if each.stuck()]
