"""Stands between the operators and the API server, and makes it answer as badly as it sometimes does."""

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

import aiohttp
from aiohttp import web

from chaos.api import AWAY, Access

HELD_SECONDS: Final = 25.0  # longer than the operator waits
SLOW_SECONDS: Final = 3.0
ARMED: Final = 6  # faults that await a request; with many more no operator would ever get as far as its first watch
# Between two hops, not from end to end (RFC 9110, 7.6.1); the length is that of the copy.
HOP: Final = {"host", "connection", "keep-alive", "transfer-encoding", "upgrade", "te", "content-length"}

Forward = Callable[[web.Request], Awaitable[web.StreamResponse]]
Strike = Callable[[web.Request, Forward], Awaitable[web.StreamResponse]]


class RequestFault(NamedTuple):
    """What happens to one request that it fits."""

    name: str
    strike: Strike
    fits: Callable[[web.Request], bool]


def is_watch(request: web.Request) -> bool:
    return request.query.get("watch") in ("true", "1")


def is_call(request: web.Request) -> bool:
    return not is_watch(request)


def is_write(request: web.Request) -> bool:
    return request.method in ("POST", "PUT", "PATCH", "DELETE")


def refusing(status: int, reason: str, **headers: str) -> Strike:
    async def refuse(_: web.Request, __: Forward) -> web.StreamResponse:
        said = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status, "reason": reason}
        return web.json_response(said | {"message": "made up by the chaos test"}, status=status, headers=headers)

    return refuse


async def answer_late(request: web.Request, forward: Forward) -> web.StreamResponse:
    await asyncio.sleep(SLOW_SECONDS)
    return await forward(request)


async def never_answer(request: web.Request, _: Forward) -> web.StreamResponse:
    await asyncio.sleep(HELD_SECONDS)
    return cut(request)


async def cut_before(request: web.Request, _: Forward) -> web.StreamResponse:
    return cut(request)


async def cut_after(request: web.Request, forward: Forward) -> web.StreamResponse:
    """The API server does what it was asked; the client never hears of it."""
    await forward(request)
    return cut(request)


async def expire(_: web.Request, __: Forward) -> web.StreamResponse:
    """A watch from a version that etcd has forgotten."""
    status = {"kind": "Status", "status": "Failure", "code": 410, "reason": "Expired", "message": "too old"}
    return web.Response(text=json.dumps({"type": "ERROR", "object": status}) + "\n", content_type="application/json")


def cut(request: web.Request) -> web.Response:
    """Ends the connection without an answer."""
    if request.transport:
        request.transport.abort()
    return web.Response()


REQUEST_FAULTS: Final = (
    RequestFault("429", refusing(429, "TooManyRequests", **{"Retry-After": "1"}), is_call),
    RequestFault("500", refusing(500, "InternalError"), is_call),
    RequestFault("503", refusing(503, "ServiceUnavailable"), is_call),
    RequestFault("409", refusing(409, "Conflict"), is_write),
    RequestFault("slow", answer_late, is_call),
    RequestFault("timeout", never_answer, is_call),
    RequestFault("cut", cut_before, is_call),
    RequestFault("answer-lost", cut_after, is_write),
    RequestFault("watch-refused", refusing(503, "ServiceUnavailable"), is_watch),
    RequestFault("watch-expired", expire, is_watch),
)


class FaultProxy:
    """Forwards everything with the client's own token, except what a fault befalls."""

    def __init__(self, upstream: Access) -> None:
        self.url = ""
        self._upstream = upstream
        self._armed: deque[RequestFault] = deque()
        self._streams: list[web.Request] = []
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._away = False

    async def start(self) -> None:
        """Listens on a free port of this machine; `url` says where."""
        connector = aiohttp.TCPConnector(ssl=self._upstream.tls, limit=0)
        self._session = aiohttp.ClientSession(connector=connector, auto_decompress=False)
        application = web.Application(client_max_size=2**26)
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        self.cut_streams()
        await self._runner.cleanup()
        await self._session.close()

    def arm(self, fault: RequestFault, count: int) -> bool:
        """It befalls the next `count` requests that it fits; False, and it befalls none, while enough await theirs."""
        if len(self._armed) > ARMED:
            return False
        self._armed.extend([fault] * count)
        return True

    def cut_streams(self) -> int:
        """Ends all watches, and says how many."""
        for request in self._streams:
            cut(request)
        return len(self._streams)

    async def silence_streams(self, seconds: float) -> int:
        """The watches stay open and say nothing; then they end. Says how many."""
        self._flowing.clear()
        await asyncio.sleep(seconds)
        count = self.cut_streams()
        self._flowing.set()
        return count

    async def go_away(self, seconds: float) -> None:
        """No connection holds for so long."""
        self._away = True
        self.cut_streams()
        await asyncio.sleep(seconds)
        self._away = False

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if self._away:
            return cut(request)
        fault = next((each for each in self._armed if each.fits(request)), None)
        if fault:
            self._armed.remove(fault)
            return await fault.strike(request, self._forward)
        return await self._forward(request)

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        try:
            return await (self._stream(request) if is_watch(request) else self._call(request))
        except AWAY:
            return cut(request)

    async def _call(self, request: web.Request) -> web.StreamResponse:
        async with self._open(request, aiohttp.ClientTimeout(total=60)) as answer:
            body = await answer.read()
            return web.Response(status=answer.status, headers=_passed_on(answer.headers), body=body)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        async with self._open(request, aiohttp.ClientTimeout(total=None)) as answer:
            response = web.StreamResponse(status=answer.status, headers=_passed_on(answer.headers))
            await response.prepare(request)
            self._streams.append(request)
            try:
                async for chunk in answer.content.iter_any():
                    await self._flowing.wait()
                    await response.write(chunk)
            finally:
                self._streams.remove(request)
            return response

    def _open(self, request: web.Request, timeout: aiohttp.ClientTimeout) -> Any:
        return self._session.request(
            request.method,
            self._upstream.url + request.path_qs,
            headers=_passed_on(request.headers),
            data=request.content if request.can_read_body else None,
            timeout=timeout,
        )


def _passed_on(headers: Any) -> list[tuple[str, str]]:
    return [(key, value) for key, value in headers.items() if key.lower() not in HOP]
