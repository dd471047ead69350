"""The HTTP server of the process.

/healthz tells whether the process still works (a restart is the remedy) and whether it leads, /readyz whether all
informers have listed, and /metrics is for Prometheus.
"""

from collections.abc import Callable, Iterable
from typing import Final

from aiohttp import web
from prometheus_client.aiohttp import make_aiohttp_handler

STUCK_SECONDS: Final = 180.0  # longer than all timeouts of one reconcile together


def verdict(stuck: Iterable[str], oldest: float) -> str:
    """What is wrong, or an empty string.

    `stuck`: kinds whose informers are stuck; `oldest`: seconds for which a key has been waiting for a worker. An API
    server that is unreachable is not unhealthy: a process whose informers and reconciles retry is alive.
    """
    if kinds := sorted(set(stuck)):
        return f"the informers of {', '.join(kinds)} are stuck"
    if oldest > STUCK_SECONDS:
        return f"a reconcile has been stuck for {oldest:.0f} s"
    return ""


async def serve(
    port: int, find_problem: Callable[[], str], ready: Callable[[], bool], leads: Callable[[], bool]
) -> web.AppRunner:
    """Serves until the returned runner is cleaned up. Raises OSError where the port is in use."""

    async def healthz(_: web.Request) -> web.Response:
        problem = find_problem()
        return web.Response(
            text=problem or ("ok, leads" if leads() else "ok, stands by"), status=503 if problem else 200
        )

    async def readyz(_: web.Request) -> web.Response:
        return web.Response(text="ok" if ready() else "not listed yet", status=200 if ready() else 503)

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz)])
    app.router.add_get("/metrics", make_aiohttp_handler())
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, None, port).start()
    return runner
