"""Creates many objects at once, and records when they and their children appear."""

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Final

import aiohttp

from support.apiserver import TOKEN, ApiServer, Json

CONNECTIONS: Final = 16
METADATA_ONLY: Final = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"
LINE_BYTES: Final = 2**20
RETRY_SECONDS: Final = 0.05


@asynccontextmanager
async def session(server: ApiServer) -> AsyncIterator[aiohttp.ClientSession]:
    """An administrator's session, with connections to spare for watches."""
    connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=str(server.ca)), limit=CONNECTIONS + 4)
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
    async with aiohttp.ClientSession(
        server.url, connector=connector, headers=headers, timeout=timeout, read_bufsize=LINE_BYTES
    ) as opened:
        yield opened


class Arrivals:
    """When the objects of a collection were first seen (time.monotonic()), and when any of them last changed."""

    def __init__(self) -> None:
        self.at: dict[str, float] = {}
        self.last_change = time.monotonic()

    def among(self, names: Iterable[str]) -> int:
        return sum(name in self.at for name in names)

    async def watch(self, client: aiohttp.ClientSession, path: str, *, by_owner: bool) -> None:
        """Runs until it is cancelled. With `by_owner`, objects are recorded under the name of their first owner.

        The API server rejects or ends the first watches of a new kind; an object keeps the time of its first sighting.
        """
        query = {"watch": "true"}
        while True:
            async with client.get(path, params=query, headers={"Accept": METADATA_ONLY}) as answer:
                if answer.status != 429:
                    answer.raise_for_status()
                    async for line in answer.content:
                        self._note(json.loads(line)["object"]["metadata"], by_owner)
            await asyncio.sleep(RETRY_SECONDS)

    def _note(self, metadata: Json, by_owner: bool) -> None:
        now = self.last_change = time.monotonic()
        name = metadata["ownerReferences"][0]["name"] if by_owner else metadata["name"]
        self.at.setdefault(name, now)


async def create(client: aiohttp.ClientSession, path: str, body: Json) -> None:
    """Retries until the API server accepts the object: a webhook may still be starting."""
    text = json.dumps(body)
    while True:
        async with client.post(path, data=text) as answer:
            reply = await answer.text()
            if answer.status == 201:
                return
            if answer.status < 500 and answer.status != 429:
                raise RuntimeError(f"{path}: {reply[:500]}")
        await asyncio.sleep(RETRY_SECONDS)


async def create_all(client: aiohttp.ClientSession, path: str, bodies: Iterable[Json]) -> None:
    """Creates the objects as fast as the API server accepts them."""
    waiting = iter(bodies)

    async def work() -> None:
        for body in waiting:
            await create(client, path, body)

    async with asyncio.TaskGroup() as group:
        for _ in range(CONNECTIONS):
            group.create_task(work())
