"""kopf runs the process: it logs in, takes the signals, starts and ends the engine, and serves admission.

Nothing else imports kopf.
"""

import asyncio
import itertools
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from tuneyard_api.kind import Kind
from tuneyard_api.kinds import KINDS
from tuneyard_api.names import GROUP, VERSION
from tuneyard_operator.admission.review import Verdict
from tuneyard_operator.machinery.imports import hidden
from tuneyard_operator.machinery.objects import Json
from tuneyard_operator.machinery.proxy import proxy_for

with hidden("kubernetes"):  # kopf would import all of it, for two classes that it compares with
    import kopf

TOKEN_AGE: Final = timedelta(minutes=1)  # after which client-go, too, reads a service account's token again
# A program that makes credentials runs again after that, or when the API server no longer accepts them (401).
EXEC_AGE: Final = timedelta(minutes=10)

logger = logging.getLogger(__name__)

# A certificate that is not there yet, or that cannot be read, is looked for again after that.
CERTIFICATE_SECONDS: Final = 10.0
UNPROCESSABLE: Final = 422  # what the API server answers where a schema rejects an object

Engine = Callable[[], Coroutine[Any, Any, None]]


class Webhook(NamedTuple):
    """An admission webhook: each kind at /validate-<kind>, over TLS."""

    port: int
    certificates: Path
    """A folder with tls.crt and tls.key; when they change, the new ones are used."""
    review: Callable[[Kind, Json, Json | None], Awaitable[Verdict]]


async def run(engine: Engine, webhook: Webhook | None = None) -> None:
    """Until a signal, or until the engine ends; raises what it raised.

    kopf is given no kinds to watch. It asks the API server for its resources once, at the start; see
    docs/decisions/0011.
    """
    over = asyncio.Event()
    configuration = settings()
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

    if webhook:
        _validate(registry, webhook)
        configuration.admission.server = partial(_serve, webhook)
    await kopf.operator(registry=registry, settings=configuration, clusterwide=True, standalone=True, stop_flag=over)
    if not running[0].cancelled():
        running[0].result()


def _validate(registry: kopf.OperatorRegistry, webhook: Webhook) -> None:
    async def validate(
        *, body: kopf.Body, warnings: list[str], param: Any = None, old: kopf.Body | None = None, **_: Any
    ) -> None:
        verdict = await webhook.review(param, dict(body), dict(old) if old else None)
        warnings.extend(verdict.warnings)
        if verdict.problems:
            raise kopf.AdmissionError(verdict.message, code=UNPROCESSABLE)

    for kind in KINDS:
        handler = kopf.on.validate(
            *(GROUP, VERSION, kind.plural),
            id=f"validate-{kind.kind.lower()}",
            param=kind,
            operations=["CREATE", "UPDATE"],
            registry=registry,
        )
        handler(validate)


async def _serve(webhook: Webhook, answer: kopf.WebhookFn) -> AsyncIterator[kopf.WebhookClientConfig]:
    """kopf's server, which ends the process where it fails: here a missing certificate only delays it."""
    certificate, key = webhook.certificates / "tls.crt", webhook.certificates / "tls.key"
    while True:
        server = kopf.WebhookServer(port=webhook.port, certfile=certificate, pkeyfile=key)
        try:
            async for config in server(partial(_answer, answer)):
                yield config
        except OSError as error:  # TLS errors are among them
            logger.warning("The admission webhook waits for its certificate, or for its port: %s", error)
        await asyncio.sleep(CERTIFICATE_SECONDS)


async def _answer(answer: kopf.WebhookFn, request: Any, **hints: Any) -> Any:
    """Without the uid, under which kopf would remember each updated object until it sees it deleted: it never does."""
    (request["request"].get("object") or {}).get("metadata", {}).pop("uid", None)
    return await answer(request, **hints)


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
    quiet.admission.managed = None  # the chart makes the webhook's configuration
    quiet.scanning.disabled = True
    # An API server that is away at the start is waited for: it would otherwise end the process.
    quiet.networking.error_backoffs = itertools.repeat(5.0)
    logging.getLogger("kopf.activities").setLevel(logging.WARNING)
    logging.getLogger("kopf.objects").setLevel(logging.CRITICAL)  # it would log a refused object as an error
    return quiet
