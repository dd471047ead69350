"""How soon an informer retries after a refusal."""

import asyncio
from typing import cast

import pytest

from support.declared import KINDS
from tuneyard_operator.machinery.cache import Cache
from tuneyard_operator.machinery.errors import ApiError
from tuneyard_operator.machinery.informers import Informer
from tuneyard_operator.machinery.kube import Kube
from tuneyard_operator.machinery.resources import Source


class Refusing:
    def __init__(self, error: ApiError) -> None:
        self._error = error

    async def list_page(self, source: Source, token: str) -> None:
        raise self._error


def pauses(error: ApiError, times: int, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == times:
            raise asyncio.CancelledError

    monkeypatch.setattr("asyncio.sleep", sleep)
    informer = Informer(cast(Kube, Refusing(error)), Source("Pod"), Cache(KINDS))
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(informer.run())
    return slept


@pytest.mark.parametrize("status", [0, 410, 429, 500, 503])
def test_delay_between_retries_is_short(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    slept = pauses(ApiError(status, "Refused", "not now"), 30, monkeypatch)
    assert slept[0] < 2.0
    assert max(slept) <= 10.0
    assert min(slept[10:]) >= 0.6, "but it does not busy-loop"


def test_retry_after_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    assert min(pauses(ApiError(429, "TooManyRequests", "not now", retry_after=60.0), 5, monkeypatch)) >= 60.0
