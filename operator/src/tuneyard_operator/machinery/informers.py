"""Informers: each lists one source, then watches it until the process ends, and keeps the cache up to date."""

import asyncio
import logging
import random
import time
from collections.abc import Iterable
from typing import Final

from tuneyard_operator.machinery import metrics
from tuneyard_operator.machinery.cache import Cache
from tuneyard_operator.machinery.errors import ApiError, delay
from tuneyard_operator.machinery.kube import TIMEOUT_SECONDS, Kube
from tuneyard_operator.machinery.objects import Json, uid, version
from tuneyard_operator.machinery.resources import Source

log = logging.getLogger(__name__)

# Seconds of one watch. Each renewal is a request, and the informers renew at different times.
WATCH_SECONDS: Final = (600, 1200)
GRACE_SECONDS: Final = 60.0  # by which a busy process may be late without being stuck
EMPTY_SECONDS: Final = 5.0  # a watch that ends sooner, and without an event, has failed
# After so many failures in a row the delay grows no further: without its informers the operator is blind.
COUNTED_FAILURES: Final = 4


class Informer:
    def __init__(self, kube: Kube, source: Source, cache: Cache) -> None:
        self.source = source
        self._kube = kube
        self._cache = cache
        self._version = 0  # from which the next watch resumes; 0: list first
        self._failures = 0
        self._deadline = time.monotonic() + GRACE_SECONDS  # by which the next request has begun or ended
        self.listed = asyncio.Event()  # set by the first complete list

    def stuck(self) -> bool:
        """Whether no request has begun or ended for too long. An informer that is refused repeatedly is not stuck."""
        return time.monotonic() > self._deadline

    async def run(self) -> None:
        """Runs until it is cancelled."""
        while True:
            try:
                await self._step()
            except ApiError as error:
                self._version = resume_from(error, self._version)
                self._failures = min(self._failures + 1, COUNTED_FAILURES)
                seconds = delay(error, self._failures, random.random())  # noqa: S311 - not a secret
                log.log(_level(error), "%s: %s; retry in %.1f s", self.source.kind, error, seconds)
                self._expect_within(seconds)
                await asyncio.sleep(seconds)

    async def _step(self) -> None:
        if self._version:
            metrics.RESUMES.labels(self.source.kind).inc()
        else:
            await self._list()
        await self._watch()

    async def _list(self) -> None:
        found, token, as_of = [], "", 0
        while True:
            self._expect_within(TIMEOUT_SECONDS)
            page = await self._kube.list_page(self.source, token)
            for obj in page.items:
                self._cache.put(obj)
                found.append(uid(obj))
            as_of, token = page.version, page.token
            if not token:
                break
        # Events are not compared: they expire by themselves, and only the newest about an object is kept.
        if self.source.kind != "Event":
            self._cache.keep_only(self.source.kind, self.source.namespace, found, as_of)
        self._version = as_of
        self.listed.set()

    async def _watch(self) -> None:
        seconds, began, is_empty = random.randint(*WATCH_SECONDS), time.monotonic(), True  # noqa: S311
        self._expect_within(seconds + TIMEOUT_SECONDS)
        async for event in self._kube.watch(self.source, self._version, seconds):
            self._version, is_empty = handle_event(event, self.source.kind, self._cache), False
            self._failures = 0
        if is_empty and time.monotonic() - began < EMPTY_SECONDS:
            raise ApiError(503, "WatchEnded", "the watch ended at once")
        self._failures = 0

    def _expect_within(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds + GRACE_SECONDS


def handle_event(event: Json, kind: str, cache: Cache) -> int:
    """Applies one event of a watch to the cache. Returns the version from which a watch can resume."""
    obj = event["object"] | {"kind": kind}
    if event["type"] == "DELETED":
        cache.remove(obj)
    elif event["type"] != "BOOKMARK":
        cache.put(obj)
    return version(obj)


def resume_from(error: ApiError, current: int) -> int:
    """The version to resume from after a failure: 0, to list again, where the API server has forgotten the current."""
    return 0 if error.status == 410 else current


def _level(error: ApiError) -> int:
    """An expired version is routine; only what may need a person is a warning."""
    return logging.INFO if error.status == 410 else logging.WARNING


class Informers:
    """One informer for each source in each namespace; no namespaces: the whole cluster."""

    def __init__(self, kube: Kube, cache: Cache, sources: Iterable[Source], namespaces: Iterable[str] = ()) -> None:
        sources, scopes = tuple(sources), tuple(namespaces) or ("",)
        scoped = [source._replace(namespace=scope) for scope in scopes for source in sources]
        self._all = [Informer(kube, source, cache) for source in scoped]

    async def run(self) -> None:
        """Runs until it is cancelled; raises what an informer raised that is not an answer of the API server."""
        async with asyncio.TaskGroup() as group:
            for informer in self._all:
                group.create_task(informer.run(), name=f"informer {informer.source.kind}")

    async def synced(self) -> None:
        """Returns when all have listed."""
        for informer in self._all:
            await informer.listed.wait()

    def are_synced(self) -> bool:
        return all(informer.listed.is_set() for informer in self._all)

    def stuck(self) -> list[str]:
        """The kinds whose informers are stuck."""
        return [informer.source.kind for informer in self._all if informer.stuck()]
