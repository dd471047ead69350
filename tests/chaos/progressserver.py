"""/progress of every running stage, each at an address of its own on the loopback."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from chaos.api import Json
from tuneyard_api.names import PROGRESS_PORT


class ProgressServer:
    """One for all pods."""

    def __init__(self) -> None:
        self._answers: dict[str, Json] = {}
        self._last = 0

    async def start(self) -> None:
        application = web.Application()
        application.router.add_get("/progress", self._answer)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()

    async def stop(self) -> None:
        await self._runner.cleanup()

    @asynccontextmanager
    async def answering(self) -> AsyncIterator[tuple[str, Callable[[Json], None]]]:
        """(the pod's address, how it tells its progress), until the block ends.

        The address stays open after it: asyncio loses a connection that it accepts just as its server closes.
        """
        self._last += 1
        address = f"127.77.{self._last // 250}.{self._last % 250 + 1}"
        await web.TCPSite(self._runner, address, PROGRESS_PORT).start()
        try:
            yield address, lambda answer: self._answers.update({address: answer})
        finally:
            self._answers.pop(address, None)

    async def _answer(self, request: web.Request) -> web.Response:
        address = request.transport.get_extra_info("sockname")[0] if request.transport else ""
        if address not in self._answers:
            raise web.HTTPServiceUnavailable  # the stage has just ended: no progress, rather than none at all
        return web.json_response(self._answers[address])
