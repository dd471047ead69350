"""Follows all objects of a kind, over lost streams and API servers that are away."""

import asyncio
import json
import time
from collections.abc import Callable
from typing import NamedTuple, Self

from chaos.api import AWAY, Api, Json, Refused, path_of


class Record(NamedTuple):
    """One change of one object."""

    at: float  # when it was seen: seconds since the epoch
    order: int  # the resourceVersion: the order in which the API server stored changes, over all kinds
    type: str  # ADDED, MODIFIED or DELETED
    kind: str
    object: Json

    def line(self) -> str:
        return json.dumps(self._asdict(), separators=(",", ":"))

    @classmethod
    def parse(cls, line: str) -> Self:
        return cls(**json.loads(line))


class Expired(Exception):
    """The API server no longer knows what happened since the version that was asked for."""


async def follow(api: Api, kind: str, namespace: str, labels: str, tell: Callable[[Record], None]) -> None:
    """Tells every change until it is cancelled."""
    stream = Stream(kind, tell)
    while True:
        try:
            if not stream.version:
                stream.listed(await api.list(kind, namespace, labels))
            await _watch(api, stream, path_of(kind, namespace), labels)
        except Expired:
            stream.version = 0
        except (*AWAY, Refused):
            await asyncio.sleep(0.1)


async def _watch(api: Api, stream: "Stream", path: str, labels: str) -> None:
    query = {"labelSelector": labels, "resourceVersion": str(stream.version), "allowWatchBookmarks": "true"}
    try:
        async for event in api.watch(path, query):
            stream.happened(event)
    except Refused as refused:
        if refused.status == 410:
            raise Expired from refused
        raise


class Stream:
    """What is known of one kind, so that a new list can tell what a lost stream did not."""

    def __init__(self, kind: str, tell: Callable[[Record], None]) -> None:
        self.version = 0
        self._kind = kind
        self._tell = tell
        self._known: dict[str, Json] = {}
        self._order = 0  # of the last change that was seen

    def happened(self, event: Json) -> None:
        """An event of the stream; raises Expired."""
        thing = event["object"]
        if event["type"] == "ERROR":
            if thing.get("code") == 410:
                raise Expired
            raise Refused(thing.get("code", 0), thing.get("message", ""))
        self.version = int(thing["metadata"]["resourceVersion"])
        if event["type"] != "BOOKMARK":
            self._changed(event["type"], thing, self.version)

    def listed(self, answer: Json) -> None:
        """What has changed meanwhile changed at some time since the last event: it is told as just after that."""
        self.version = int(answer["metadata"]["resourceVersion"])
        since, now = self._order, {each["metadata"]["uid"]: each for each in answer["items"]}
        for uid in self._known.keys() - now.keys():
            self._changed("DELETED", self._known[uid], since)
        for uid, thing in now.items():
            before, version = self._known.get(uid), thing["metadata"]["resourceVersion"]
            if before is None or before["metadata"]["resourceVersion"] != version:
                self._changed("MODIFIED" if before else "ADDED", thing, since or int(version))

    def _changed(self, what: str, thing: Json, order: int) -> None:
        thing["metadata"].pop("managedFields", None)
        self._known[thing["metadata"]["uid"]] = thing
        if what == "DELETED":
            del self._known[thing["metadata"]["uid"]]
        self._order = max(self._order, order)
        self._tell(Record(time.time(), order, what, self._kind, thing))
