"""Reads JSON from the HTTP servers of pods."""

from typing import Final, Protocol

import aiohttp

from tuneyard_operator.machinery.objects import Json

# Seconds. A pod that has just ended does not answer, and the next one waits for that long.
TIMEOUT: Final = aiohttp.ClientTimeout(total=1)


class JsonReader(Protocol):
    """What an observation may ask of a pod."""

    async def get_json(self, url: str) -> Json | None:
        """A JSON object, or None where the server does not answer with one in time."""
        ...


class HttpClient:
    """All requests share one session, which the first request opens."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def get_json(self, url: str) -> Json | None:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=TIMEOUT)
        try:
            async with self._session.get(url) as response:
                answer = await response.json(content_type=None)
                return answer if response.ok and isinstance(answer, dict) else None
        except (aiohttp.ClientError, TimeoutError, ValueError, OSError):
            return None

    async def close(self) -> None:
        if self._session:
            await self._session.close()
