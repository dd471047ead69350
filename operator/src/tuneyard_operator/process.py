"""kopf runs the process: it logs in, takes the signals, and starts and ends the engine. Nothing else imports kopf."""

import asyncio
import itertools
import logging
import os
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import kopf

TOKEN_AGE: Final = timedelta(minutes=1)  # after which client-go, too, reads a service account's token again

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
    def log_in_kopf(**_: Any) -> kopf.ConnectionInfo:
        return login()

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


def login() -> kopf.ConnectionInfo:
    """With the pod's service account, or the kubeconfig of whoever runs it. Raises kopf.LoginError where there is none.

    Tokens, certificates and passwords are known, programs that a kubeconfig asks to run are not.
    """
    if host := os.environ.get("KUBERNETES_SERVICE_HOST"):
        if account := kopf.login_with_service_account(settings=settings()):
            server = address(host, os.environ["KUBERNETES_SERVICE_PORT"])
            return replace(account, server=server, expiration=datetime.now(UTC) + TOKEN_AGE)
    elif known := kopf.login_with_kubeconfig(settings=settings()):
        return known
    raise kopf.LoginError("there is neither a service account nor a kubeconfig")


def address(host: str, port: str) -> str:
    """Of the API server by its IP, as client-go has it, and not by kopf's name: it is reached where DNS is down."""
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


def settings() -> kopf.OperatorSettings:
    """kopf writes nothing to the cluster and looks for nothing there."""
    quiet = kopf.OperatorSettings()
    quiet.posting.enabled = False
    quiet.scanning.disabled = True
    # An API server that is away at the start is waited for: it would otherwise end the process.
    quiet.networking.error_backoffs = itertools.repeat(5.0)
    logging.getLogger("kopf.activities").setLevel(logging.WARNING)
    return quiet
