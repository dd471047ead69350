"""kopf runs the process: it logs in, takes the signals, and starts and ends the engine. Nothing else imports kopf."""

import asyncio
import itertools
import logging
import os
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from tuneyard_operator.machinery.imports import hidden
from tuneyard_operator.machinery.proxy import proxy_for

with hidden("kubernetes"):  # kopf would import all of it, for two classes that it compares with
    import kopf

TOKEN_AGE: Final = timedelta(minutes=1)  # after which client-go, too, reads a service account's token again
# A program that makes credentials runs again after that, or when the API server no longer accepts them (401).
EXEC_AGE: Final = timedelta(minutes=10)

logger = logging.getLogger(__name__)

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
    """With the pod's service account, or outside a cluster with the kubeconfig. Raises kopf.LoginError without either.

    A kubeconfig's proxy-url wins over HTTPS_PROXY and NO_PROXY.
    """
    host = os.environ.get("KUBERNETES_SERVICE_HOST")
    found = _service_account(host) if host else _kubeconfig()
    if found is None:
        raise kopf.LoginError("there is neither a service account nor a kubeconfig")
    return replace(found, proxy_url=found.proxy_url or proxy_for(found.server))


def _service_account(host: str) -> kopf.ConnectionInfo | None:
    account = kopf.login_with_service_account(settings=settings())
    if account is None:
        return None
    server = address(host, os.environ["KUBERNETES_SERVICE_PORT"])
    return replace(account, server=server, expiration=datetime.now(UTC) + TOKEN_AGE)


def _kubeconfig() -> kopf.ConnectionInfo | None:
    """Tokens, passwords and certificates are read by kopf; anything else (`exec`, tokenFile) by the kubernetes package.

    That package costs two seconds and 60 MB, so it is only imported for a kubeconfig that needs it.
    """
    found = kopf.login_with_kubeconfig(settings=settings())
    if found is None or found.token or found.username or found.certificate_path or found.certificate_data:
        return found
    client = kopf.login_via_client(logger=logger, settings=settings())
    if client is None:
        logger.warning(
            "The kubeconfig has neither a token nor a certificate nor a password. If a program (exec) or a file makes "
            "its credentials, install the package that reads them: pip install 'tuneyard-operator[kubeconfig]'"
        )
        return found
    return replace(client, proxy_url=found.proxy_url, expiration=datetime.now(UTC) + EXEC_AGE)


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
