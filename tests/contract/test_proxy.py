"""The real nginx in front of an upstream on a unix socket that answers every path, as vLLM answers many."""

import http.client
import json
import os
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import pytest

from demo.kubectl import wait_until
from tuneyard_api.names import PROXY_PORT
from tuneyard_server.engines.vllm import ROUTES

KEY = 'sk-a"b$c;{}\\d^(e)'
URL = f"http://127.0.0.1:{PROXY_PORT}"
GOOD = {"Authorization": f"Bearer {KEY}"}


class Upstream(BaseHTTPRequestHandler):
    """Answers each path with itself; /v1/completions is a stream of ten chunks, a tenth of a second apart."""

    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path.startswith("/v1/completions"):
            return self.stream()
        body = f"{self.command} {self.path} auth={self.headers.get('Authorization')}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        return None

    def stream(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number in range(10):
            data = f"data: {number}\n\n".encode()
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            self.wfile.flush()
            time.sleep(0.1)
        self.wfile.write(b"0\r\n\r\n")

    do_GET = do_POST = do_PUT = do_DELETE = answer  # noqa: N815 - the library's names

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def address_string(self) -> str:
        return "unix"


class UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        connection, _ = super().get_request()
        return connection, ("unix", 0)


Proxy = subprocess.Popen[str]


@pytest.fixture(scope="module")
def engine() -> Iterator[Path]:
    # Not below pytest's own folder: started by root, nginx's workers are another user who may not enter it.
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = Path(folder) / "engine.sock"
        server = UnixServer(str(path), Upstream)
        path.chmod(0o777)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield path
        server.shutdown()
        server.server_close()


@contextmanager
def running(engine: Path, folder: Path, key: str | None = KEY) -> Iterator[Proxy]:
    """`tuneyard-server proxy` with everything in `folder`; the key is in a folder as a mounted Secret is."""
    assert shutil.which("nginx"), "these tests need nginx: apt-get install nginx-light"
    if key is not None:
        (folder / "auth").mkdir()
        (folder / "auth" / "key").write_text(key)
    places = {"--socket": engine, "--scratch": folder / "scratch", "--drained": folder / "drained"}
    places |= {"--key-file": folder / "auth" / "key"}
    command = [sys.executable, "-m", "tuneyard_server.cli", "proxy", "--engine", "vllm", "--drain-delay", "0"]
    command += [str(part) for pair in places.items() for part in pair]
    environment = os.environ | {"TUNEYARD_TERMINATION_LOG": str(folder / "termination")}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.communicate(timeout=20)


def is_up() -> bool:
    try:
        return httpx.get(f"{URL}/health").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="class")
def shared(engine: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One proxy for the tests that leave it as it is."""
    with running(engine, tmp_path_factory.mktemp("proxy")):
        wait_until(is_up, "the proxy is up", 10, every=0.1)
        yield


@pytest.fixture
def proxy(engine: Path, tmp_path: Path) -> Iterator[Proxy]:
    with running(engine, tmp_path) as process:
        wait_until(is_up, "the proxy is up", 10, every=0.1)
        yield process


def raw_status(method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
    """A request whose path is sent as it is written; httpx would normalise it."""
    connection = http.client.HTTPConnection("127.0.0.1", PROXY_PORT, timeout=10)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, body


@pytest.mark.usefixtures("shared")
class TestRoutes:
    @pytest.mark.parametrize(
        "headers", [{}, GOOD, {"Authorization": "Bearer wrong"}], ids=["no key", "key", "wrong key"]
    )
    @pytest.mark.parametrize(
        "path",
        [
            "/", "/adapters", "/server_info", "/load_lora_adapter", "/v1/load_lora_adapter", "/tokenize", "/docs",
            "/version", "/v1/models/", "/V1/models", "/v1/models/x", "/v1/../adapters", "/v1/%2e%2e/adapters",
            "/v1/models/../../adapters", "/v1/models%2f..%2f..%2fadapters", "/v1/models%00",
            "/%61dapters", "/healthz", "/health/../adapters",
        ],
    )  # fmt: skip
    def test_other_paths_are_404(self, path: str, headers: dict[str, str]) -> None:
        for method in ("GET", "POST"):
            status, body = raw_status(method, path, headers)
            assert status == (400 if "%00" in path else 404), body
            assert "adapters auth" not in body

    def test_listed_routes_reach_the_engine_without_the_key(self) -> None:
        for route in ROUTES:
            if route.path != "/v1/completions":
                answer = httpx.request(route.method, URL + route.path, headers=GOOD)
                assert answer.text == f"{route.method} {route.path} auth=None"

    def test_double_slashes_are_merged(self) -> None:
        assert raw_status("GET", "//v1//models", GOOD) == (200, "GET /v1/models auth=None")
        assert raw_status("GET", "//v1//models", {})[0] == 401

    @pytest.mark.parametrize(
        "key",
        [None, "", "Bearer", f"Bearer {KEY}x", f"Bearer x{KEY}", f"Bearer {KEY.upper()}", KEY, f"bearer {KEY}"],
    )
    def test_wrong_key_is_401(self, key: str | None) -> None:
        for route in ROUTES:
            if route.key_needed:
                answer = httpx.request(route.method, URL + route.path, headers={"Authorization": key} if key else {})
                assert answer.status_code == 401
                assert answer.json()["error"]["type"] == "authentication_error"

    def test_health_and_metrics_need_no_key(self) -> None:
        assert httpx.get(f"{URL}/health").status_code == httpx.get(f"{URL}/metrics").status_code == 200

    def test_wrong_method_is_405(self) -> None:
        assert httpx.get(f"{URL}/v1/chat/completions", headers=GOOD).status_code == 405
        assert httpx.delete(f"{URL}/v1/models", headers=GOOD).status_code == 405

    def test_streams_are_not_buffered(self) -> None:
        began = time.monotonic()
        with httpx.stream("POST", f"{URL}/v1/completions", headers=GOOD, json={}) as answer:
            times = [time.monotonic() - began for _ in answer.iter_raw()]
        assert len(times) >= 5
        assert times[0] < 0.5 < times[-1]


def test_sigterm_lets_a_stream_finish(proxy: Proxy, tmp_path: Path) -> None:
    text = ""
    with httpx.stream("POST", f"{URL}/v1/completions", headers=GOOD, json={}) as answer:
        for chunk in answer.iter_text():
            if not text:
                proxy.send_signal(signal.SIGTERM)
                assert not (tmp_path / "drained").exists()
            text += chunk
    assert text.count("data:") == 10
    assert proxy.wait(timeout=10) == 0
    assert (tmp_path / "drained").exists(), "the engine may end now"


def test_changed_key_is_reloaded(proxy: Proxy, tmp_path: Path) -> None:
    (tmp_path / "auth" / "key").write_text("another-key-123")
    new = {"Authorization": "Bearer another-key-123"}
    wait_until(lambda: httpx.get(f"{URL}/v1/models", headers=new).status_code == 200, "the new key is known", 15)
    assert httpx.get(f"{URL}/v1/models", headers=GOOD).status_code == 401


def test_without_key_listed_routes_are_open(engine: Path, tmp_path: Path) -> None:
    with running(engine, tmp_path, key=None):
        wait_until(is_up, "the proxy is up", 10, every=0.1)
        assert httpx.get(f"{URL}/v1/models").status_code == 200
        assert httpx.get(f"{URL}/adapters").status_code == 404


@pytest.mark.parametrize("key", ["", "short", "has a space", "späße-und-mehr"])
def test_unusable_key_is_bad_input(engine: Path, tmp_path: Path, key: str) -> None:
    with running(engine, tmp_path, key=key) as process:
        assert process.wait(timeout=10) == 65
    termination = json.loads((tmp_path / "termination").read_text())
    assert termination["reason"] == "InvalidAPIKey"
    assert "API key" in termination["message"]


def test_log_holds_no_key(proxy: Proxy) -> None:
    httpx.get(f"{URL}/v1/models?api_key={KEY}", headers=GOOD)
    proxy.terminate()
    log, _ = proxy.communicate(timeout=15)
    assert "/v1/models" in log
    assert KEY not in log
