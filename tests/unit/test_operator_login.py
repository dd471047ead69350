"""Where the API server is and who we are there; what is sent is read by a real HTTP server."""

import json
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import kopf
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from support.apiserver import client_config
from support.declared import RESOURCES
from tuneyard_operator import process
from tuneyard_operator.admission import lookup
from tuneyard_operator.machinery.errors import ApiError
from tuneyard_operator.machinery.kube import Kube
from tuneyard_operator.machinery.proxy import proxy_for
from tuneyard_operator.main import IDENTITY

PAST, FUTURE = timedelta(seconds=-1), timedelta(hours=1)


def connect(url: str) -> Kube:
    return Kube(lambda: kopf.ConnectionInfo(server=url, token="t"), RESOURCES, IDENTITY)


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
async def test_token_is_reread_when_its_login_expires(
    server: TestServer, lasts: timedelta | None, said: list[str]
) -> None:
    logins = count()

    def log_in() -> kopf.ConnectionInfo:
        expiration = datetime.now(UTC) + lasts if lasts else None
        return kopf.ConnectionInfo(server=str(server.make_url("/")), token=str(next(logins)), expiration=expiration)

    kube = Kube(log_in, RESOURCES, IDENTITY)
    answers = [await kube.get("Pod", "team", "x") or {} for _ in range(2)]
    await kube.close()
    assert [each["said"] for each in answers] == said


async def test_api_server_behind_a_path_is_found(server: TestServer) -> None:
    kube = connect(str(server.make_url("/clusters/c1")))
    answer = await kube.get("Pod", "team", "x") or {}
    await kube.close()
    assert answer["path"] == "/clusters/c1/api/v1/namespaces/team/pods/x"


async def test_no_compression_is_requested(server: TestServer) -> None:
    kube = connect(str(server.make_url("/")))
    answer = await kube.get("Pod", "team", "x") or {}
    await kube.close()
    assert answer["takes"] == "identity"


@pytest.mark.parametrize(("status", "there"), [(200, True), (404, False)])
async def test_existence_is_asked_without_contents(status: int, there: bool) -> None:
    accepted = []

    async def answer(request: web.Request) -> web.Response:
        accepted.append((request.path, request.headers["Accept"]))
        return web.json_response({}, status=status)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    async with TestServer(app) as server:
        kube = Kube(lambda: kopf.ConnectionInfo(server=str(server.make_url("/"))), lookup.RESOURCES, IDENTITY)
        assert await kube.exists("Secret", "team", "keys") is there
        await kube.close()
    assert accepted == [
        ("/api/v1/namespaces/team/secrets/keys", "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1")
    ]


def test_kubeconfig_path_is_read_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config").write_text(json.dumps(client_config("https://here:6443", "secret")))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    found = process.login()
    assert found.server == "https://here:6443"
    assert found.as_http_headers() == {"Authorization": "Bearer secret"}
    assert found.as_ssl_context().verify_mode is ssl.CERT_REQUIRED
    assert found.expiration is None, "who changes the context of kubectl does not move a running operator"


def test_missing_login_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(kopf.LoginError, match="neither a service account nor a kubeconfig"):
        process.login()


@pytest.mark.parametrize(
    ("host", "url"), [("10.96.0.1", "https://10.96.0.1:443"), ("fd00::1", "https://[fd00::1]:443")]
)
def test_address_inside_a_cluster(host: str, url: str) -> None:
    assert process.address(host, "443") == url


PLUGIN = """#!/bin/sh
echo run >> "$RUNS"
echo '{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": "made"}}'
"""


def exec_kubeconfig(folder: Path, **cluster: str) -> Path:
    """A kubeconfig as clouds write it: a program prints the token, and writes a line into the file `runs`."""
    program = folder / "get-token"
    program.write_text(PLUGIN)
    program.chmod(0o755)
    config = client_config("https://here:6443", "")
    config["clusters"][0]["cluster"] |= cluster
    config["users"][0]["user"] = {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": str(program),
            "env": [{"name": "RUNS", "value": str(folder / "runs")}],
            "interactiveMode": "Never",
        }
    }
    path = folder / "config"
    path.write_text(json.dumps(config))
    return path


def log_in_elsewhere(kubeconfig: Path) -> list[str]:
    """In a process of its own: server, header, proxy, whether it expires, whether kubernetes was imported."""
    program = (
        "import sys; from tuneyard_operator import main, process; found = process.login(); "
        "print(found.server, found.as_http_headers().get('Authorization'), found.proxy_url, bool(found.expiration), "
        "'kubernetes' in sys.modules, sep='|')"
    )
    environment = {"KUBECONFIG": str(kubeconfig), "PATH": "/usr/bin:/bin", "HTTPS_PROXY": "http://environment:3128"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().split("|")


def test_exec_credentials(tmp_path: Path) -> None:
    kubeconfig = exec_kubeconfig(tmp_path)
    expected = ["https://here:6443", "Bearer made", "http://environment:3128", "True", "True"]
    assert log_in_elsewhere(kubeconfig) == expected
    assert (tmp_path / "runs").read_text() == "run\n"


def test_kubeconfigs_proxy_wins(tmp_path: Path) -> None:
    kubeconfig = exec_kubeconfig(tmp_path, **{"proxy-url": "http://kubeconfig:3128"})
    assert log_in_elsewhere(kubeconfig)[2] == "http://kubeconfig:3128"


def test_token_needs_no_kubernetes_package(tmp_path: Path) -> None:
    (tmp_path / "config").write_text(json.dumps(client_config("https://here:6443", "secret")))
    expected = ["https://here:6443", "Bearer secret", "http://environment:3128", "False", "False"]
    assert log_in_elsewhere(tmp_path / "config") == expected


async def test_401_logs_in_again() -> None:
    """A token may end sooner than its login says."""

    async def check(request: web.Request) -> web.Response:
        known = request.headers["Authorization"] == "Bearer 1"
        return web.json_response({"kind": "Pod"} if known else {"reason": "Unauthorized"}, status=200 if known else 401)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", check)
    logins = count()
    async with TestServer(app) as server:
        kube = Kube(
            lambda: kopf.ConnectionInfo(server=str(server.make_url("/")), token=str(next(logins))), RESOURCES, IDENTITY
        )
        with pytest.raises(ApiError, match="Unauthorized"):
            await kube.get("Pod", "team", "x")
        assert await kube.get("Pod", "team", "x") == {"kind": "Pod"}
        await kube.close()


@pytest.mark.parametrize(
    ("server", "no_proxy", "proxy"),
    [
        ("https://api.example:6443", "", "http://proxy:3128"),
        ("https://api.example:6443", "other.example", "http://proxy:3128"),
        ("https://api.example:6443", "api.example", None),
        ("https://api.example:6443", "api.example:6443", None),
        ("https://api.example:6443", ".example", None),
        ("https://api.example:6443", "*", None),
        ("https://10.96.0.1:443", "10.96.0.1", None),
        ("https://10.96.0.1:443", "localhost, 10.0.0.0/8", None),
        ("https://[fd00::1]:443", "fd00::/8", None),
        ("https://10.96.0.1:443", "192.168.0.0/16,example", "http://proxy:3128"),
        ("https://127.0.0.1:6443", "", None),
        ("https://localhost:6443", "", None),
        ("http://api.example:8001", "", None),  # HTTP_PROXY is not set
    ],
)
def test_which_proxy(server: str, no_proxy: str, proxy: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert proxy_for(server) == proxy


async def test_requests_go_through_the_proxy(server: TestServer) -> None:
    """The proxy is asked for the whole URL of a server that nothing else could reach."""
    proxy = str(server.make_url("/"))
    login = kopf.ConnectionInfo(server="http://nowhere.invalid", token="t", proxy_url=proxy)
    kube = Kube(lambda: login, RESOURCES, IDENTITY)
    answer = await kube.get("Pod", "team", "x") or {}
    await kube.close()
    assert answer["path"] == "/api/v1/namespaces/team/pods/x"
