"""Where the API server is and who we are there; what is sent is read by a real HTTP server."""

import json
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import kopf
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from support.apiserver import client_config
from tuneyard_operator import process
from tuneyard_operator.machinery.kube import Kube

PAST, FUTURE = timedelta(seconds=-1), timedelta(hours=1)


@pytest.fixture
async def server() -> AsyncIterator[TestServer]:
    """Answers every request with the credentials that came with it."""

    async def echo(request: web.Request) -> web.Response:
        said = {"said": request.headers["Authorization"], "path": request.path}
        return web.json_response(said | {"takes": request.headers["Accept-Encoding"]})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", echo)
    running = TestServer(app)
    async with running:
        yield running


@pytest.mark.parametrize(
    ("lasts", "said"),
    [
        (None, ["Bearer 0", "Bearer 0"]),
        (FUTURE, ["Bearer 0", "Bearer 0"]),
        (PAST, ["Bearer 1", "Bearer 2"]),
    ],
)
async def test_a_token_is_read_again_when_its_login_has_expired(
    server: TestServer, lasts: timedelta | None, said: list[str]
) -> None:
    logins = count()

    def log_in() -> kopf.ConnectionInfo:
        expiration = datetime.now(UTC) + lasts if lasts else None
        return kopf.ConnectionInfo(server=str(server.make_url("/")), token=str(next(logins)), expiration=expiration)

    kube = Kube(log_in)
    answers = [await kube.get("Pod", "team", "x") or {} for _ in range(2)]
    await kube.close()
    assert [each["said"] for each in answers] == said


async def test_an_api_server_behind_a_path_is_found(server: TestServer) -> None:
    kube = Kube(lambda: kopf.ConnectionInfo(server=str(server.make_url("/clusters/c1")), token="t"))
    answer = await kube.get("Pod", "team", "x") or {}
    await kube.close()
    assert answer["path"] == "/clusters/c1/api/v1/namespaces/team/pods/x"


async def test_no_answer_is_to_be_compressed(server: TestServer) -> None:
    kube = Kube(lambda: kopf.ConnectionInfo(server=str(server.make_url("/")), token="t"))
    answer = await kube.get("Pod", "team", "x") or {}
    await kube.close()
    assert answer["takes"] == "identity"


def test_a_kubeconfig_is_read_where_it_is_named_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config").write_text(json.dumps(client_config("https://here:6443", "secret")))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    found = process.login()
    assert found.server == "https://here:6443"
    assert found.as_http_headers() == {"Authorization": "Bearer secret"}
    assert found.as_ssl_context().verify_mode is ssl.CERT_REQUIRED
    assert found.expiration is None, "who changes the context of kubectl does not move a running operator"


def test_without_a_login_the_process_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(kopf.LoginError, match="neither a service account nor a kubeconfig"):
        process.login()


@pytest.mark.parametrize(
    ("host", "url"), [("10.96.0.1", "https://10.96.0.1:443"), ("fd00::1", "https://[fd00::1]:443")]
)
def test_in_a_cluster_the_api_server_goes_by_its_address(host: str, url: str) -> None:
    assert process.address(host, "443") == url
