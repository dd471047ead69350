"""Asks a running stage how far it is."""

import logging
from typing import Final

import aiohttp

from tuneyard_api.names import PROGRESS_PORT
from tuneyard_operator.objects import Json

log = logging.getLogger(__name__)

TIMEOUT: Final = aiohttp.ClientTimeout(total=2)


async def ask(pod_ip: str) -> Json | None:
    """The answer of /progress, or None: a stage that has just begun, or is busy, does not answer yet."""
    host = f"[{pod_ip}]" if ":" in pod_ip else pod_ip
    try:
        async with (
            aiohttp.ClientSession(timeout=TIMEOUT) as session,
            session.get(f"http://{host}:{PROGRESS_PORT}/progress") as response,
        ):
            answer = await response.json(content_type=None)
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        log.debug("no progress from %s: %r", pod_ip, error)
        return None
    return answer if isinstance(answer, dict) else None
