"""The operator's own client, for tests that need no whole operator."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from support.declared import RESOURCES
from tuneyard_operator import process
from tuneyard_operator.machinery.kube import Kube
from tuneyard_operator.main import IDENTITY


def connect() -> Kube:
    """To the API server that KUBECONFIG names; whoever calls it closes it."""
    return Kube(process.login, RESOURCES, IDENTITY)


@asynccontextmanager
async def connected(kubeconfig: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Kube]:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    kube = connect()
    try:
        yield kube
    finally:
        await kube.close()
