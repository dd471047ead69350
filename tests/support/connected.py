"""The operator's own client, for tests that need no whole operator."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tuneyard_operator import process
from tuneyard_operator.machinery.kube import Kube


@asynccontextmanager
async def connected(kubeconfig: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Kube]:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    kube = Kube(process.login)
    try:
        yield kube
    finally:
        await kube.close()
