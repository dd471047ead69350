"""A TCP connection to a server that a test can cut, or make as silent as a network that loses every packet."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

SETTLED: Final = 0.05  # seconds in which the event loop has done what it had begun


class Wire:
    """Leads from `port` on loopback to another one there."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._open: set[asyncio.Task[None]] = set()
        self._whole = True
        self._flows = asyncio.Event()
        self._flows.set()
        self.port = 0
        self.refused = 0  # connections, since the beginning

    def cut(self) -> None:
        """As a server that is away."""
        self._whole = False
        for each in self._open:
            each.cancel()

    def mend(self) -> None:
        self._whole = True

    def swallow(self) -> None:
        self._flows.clear()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        carrying = asyncio.create_task(self._carry(reader, writer))
        self._open.add(carrying)
        carrying.add_done_callback(self._open.discard)
        # Not as it ends: what it raises is the test's doing, and nobody's concern.
        await asyncio.wait([carrying])

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if not self._whole:
                self.refused += 1
                return
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
            try:
                await asyncio.gather(self._pump(reader, back), self._pump(there, writer))
            finally:
                back.transport.abort()
        except OSError:
            pass
        finally:
            writer.transport.abort()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            await self._flows.wait()
            sink.write(data)
            await sink.drain()
        sink.write_eof()

    async def close(self) -> None:
        """Nothing of it is left open, at neither end: what is would be found much later, in another test."""
        await asyncio.sleep(SETTLED)  # those that were just let in have begun
        self.cut()
        while self._open:
            await asyncio.wait(self._open)
        await asyncio.sleep(SETTLED)  # and the clients hear of it


@asynccontextmanager
async def wire_to(target: int) -> AsyncIterator[Wire]:
    wire = Wire(target)
    listening = await asyncio.start_server(wire.accept, "127.0.0.1", 0)
    wire.port = listening.sockets[0].getsockname()[1]
    try:
        yield wire
    finally:
        listening.close()
        await wire.close()
