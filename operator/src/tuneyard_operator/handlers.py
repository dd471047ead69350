"""kopf runs the process: it takes the signals, and starts and ends the engine. The only module that imports kopf."""

import asyncio
import itertools
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import kopf

Engine = Callable[[], Coroutine[Any, Any, None]]


async def run(engine: Engine) -> None:
    """Until a signal, or until the engine ends; raises what it raised.

    kopf is given no kinds to watch. It asks the API server for its resources once, at the start; see
    docs/decisions/0011.
    """
    over = asyncio.Event()
    registry = kopf.OperatorRegistry()
    running: list[asyncio.Task[None]] = []

    @kopf.on.login(registry=registry)
    def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
        return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)

    @kopf.on.startup(registry=registry)
    async def start(**_: Any) -> None:
        task = asyncio.create_task(engine(), name="engine")
        task.add_done_callback(lambda _: over.set())
        running.append(task)

    @kopf.on.cleanup(registry=registry)
    async def end(**_: Any) -> None:
        running[0].cancel()
        await asyncio.wait(running)

    await kopf.operator(registry=registry, settings=settings(), clusterwide=True, standalone=True, stop_flag=over)
    if not running[0].cancelled():
        running[0].result()


def settings() -> kopf.OperatorSettings:
    """kopf writes nothing to the cluster and looks for nothing there."""
    quiet = kopf.OperatorSettings()
    quiet.posting.enabled = False
    quiet.scanning.disabled = True
    # An API server that is away at the start is waited for: it would otherwise end the process.
    quiet.networking.error_backoffs = itertools.repeat(5.0)
    logging.getLogger("kopf.activities").setLevel(logging.WARNING)
    return quiet
