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
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import pytest
from openai import NotFoundError, OpenAI

from demo.kubectl import wait_until
from tuneyard_api.names import METRICS_PORT, PROXY_PORT
from tuneyard_server.engines.vllm import ROUTES

KEY = 'sk-a"b$c;{}\\d^(e)'
URL = f"http://127.0.0.1:{PROXY_PORT}"
METRICS_URL = f"http://127.0.0.1:{METRICS_PORT}"
ORIGIN = "https://app.example.com"
GOOD = {"Authorization": f"Bearer {KEY}"}


class Upstream(BaseHTTPRequestHandler):
    """Answers each path with itself; /v1/completions is a stream of ten chunks, a tenth of a second apart."""

    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path.startswith("/v1/completions"):
            return self.stream()
        if "X-Absent" in self.headers:
            return self.send_error(404)
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
def running(engine: Path, folder: Path, *options: str, key: str | None = KEY) -> Iterator[Proxy]:
    """`tuneyard-server proxy` with everything in `folder`; the key is in a folder as a mounted Secret is."""
    assert shutil.which("nginx"), "these tests need nginx: apt-get install nginx-light"
    if key is not None:
        (folder / "auth").mkdir()
        (folder / "auth" / "key").write_text(key)
    places = {"--socket": engine, "--scratch": folder / "scratch", "--drained": folder / "drained"}
    places |= {"--key-file": folder / "auth" / "key"}
    command = [sys.executable, "-m", "tuneyard_server.cli", "proxy", "--engine", "vllm", "--served-name", "bot"]
    command += ["--drain-delay", "0", *options]
    command += [str(part) for pair in places.items() for part in pair]
    environment = os.environ | {"TUNEYARD_TERMINATION_LOG": str(folder / "termination")}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.communicate(timeout=60)


def is_up() -> bool:
    try:
        return httpx.get(f"{METRICS_URL}/health").status_code == 200
    except httpx.TransportError:
        return False


def is_listening() -> bool:
    try:
        return httpx.get(f"{METRICS_URL}/health").status_code > 0
    except httpx.TransportError:
        return False


@pytest.fixture(scope="class", params=["vllm", "llamacpp"])
def shared(request: pytest.FixtureRequest, engine: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One proxy for the tests that leave it as it is."""
    with running(engine, tmp_path_factory.mktemp("proxy"), "--engine", request.param):
        wait_until(is_up, "the proxy is up", 60, every=0.1)
        yield str(request.param)


@pytest.fixture
def proxy(engine: Path, tmp_path: Path) -> Iterator[Proxy]:
    with running(engine, tmp_path) as process:
        wait_until(is_up, "the proxy is up", 60, every=0.1)
        yield process


def raw_status(method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
    """A request whose path is sent as it is written; httpx would normalise it."""
    connection = http.client.HTTPConnection("127.0.0.1", PROXY_PORT, timeout=10)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, body


AUTHORIZED = f"Authorization: Bearer {KEY}\r\n"
POST = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n{AUTHORIZED}"
REFUSED_BY_NGINX = {
    400: f"GET /v1/models HTTP/1.1\r\n{AUTHORIZED}\r\n",  # no Host
    405: f"TRACE /v1/models HTTP/1.1\r\nHost: x\r\n{AUTHORIZED}\r\n",
    413: f"{POST}Content-Length: 99999999\r\n\r\n",
    414: f"GET /{'x' * 40000} HTTP/1.1\r\nHost: x\r\n\r\n",
    431: f"GET /v1/models HTTP/1.1\r\nHost: x\r\nX: {'x' * 40000}\r\n\r\n",
    501: f"{POST}Transfer-Encoding: gzip\r\n\r\n",
    505: "GET /v1/models HTTP/3.0\r\nHost: x\r\n\r\n",
}


def exchange(request_text: str) -> str:
    """The answer to a request that is sent as it is written."""
    with socket.create_connection(("127.0.0.1", PROXY_PORT), timeout=10) as connection:
        connection.sendall(request_text.encode())
        connection.settimeout(3)
        answer = b""
        with suppress(TimeoutError, ConnectionResetError):
            while part := connection.recv(65536):
                answer += part
                if b"}}" in answer:
                    break
    return answer.decode()


@pytest.mark.usefixtures("shared")
class TestRoutes:
    @pytest.mark.parametrize(
        "headers", [{}, GOOD, {"Authorization": "Bearer wrong"}], ids=["no key", "key", "wrong key"]
    )
    @pytest.mark.parametrize(
        "path",
        [
            "/", "/adapters", "/server_info", "/load_lora_adapter", "/v1/load_lora_adapter", "/docs",
            "/version", "/V1/models", "/v1/../adapters", "/health", "/metrics", "/-/400",
            "/-/no-route", "/v1/%2e%2e/adapters",
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
        [None, "", "Bearer", f"Bearer {KEY}x", f"Bearer x{KEY}", f"Bearer {KEY.upper()}", KEY, f"Basic {KEY}"],
    )
    def test_wrong_key_is_401(self, key: str | None) -> None:
        for method, path in [*((route.method, route.path) for route in ROUTES), ("GET", "/v1/models/bot")]:
            answer = httpx.request(method, URL + path, headers={"Authorization": key} if key else {})
            assert answer.status_code == 401
            assert answer.json()["error"]["type"] == "authentication_error"

    @pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer "])
    def test_scheme_is_read_without_regard_to_case(self, scheme: str) -> None:
        assert httpx.get(f"{URL}/v1/models", headers={"Authorization": f"{scheme} {KEY}"}).status_code == 200

    def test_health_and_metrics_are_on_a_port_of_their_own_without_a_key(self) -> None:
        for path in ("/health", "/metrics"):
            assert httpx.get(METRICS_URL + path).text == f"GET {path} auth=None"
            assert httpx.post(METRICS_URL + path).status_code == 403
        assert httpx.get(f"{METRICS_URL}/v1/models", headers=GOOD).status_code == 404

    def test_one_model_is_retrieved(self) -> None:
        client = OpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0)
        assert client.models.retrieve("bot").id == "bot"
        with pytest.raises(NotFoundError) as failure:
            client.models.retrieve("another")
        assert (failure.value.code, failure.value.type) == ("model_not_found", "invalid_request_error")

    def test_head_is_answered_where_get_is(self) -> None:
        for path in ("/v1/models", "/v1/models/bot"):
            answer = httpx.head(URL + path, headers=GOOD)
            assert (answer.status_code, answer.text) == (200, "")

    def test_route_that_the_model_lacks_is_explained(self, shared: str) -> None:
        if shared == "llamacpp":
            pytest.skip("llama-server explains it itself, with 501")
        absent = GOOD | {"X-Absent": "1"}
        error = httpx.post(f"{URL}/v1/embeddings", headers=absent, json={}).json()["error"]
        assert "the model has no such route" in error["message"]
        assert httpx.post(f"{URL}/v1/chat/completions", headers=absent, json={}).text.startswith("<!DOCTYPE"), (
            "other routes answer with the engine's own 404"
        )

    def test_pages_of_other_origins_may_not_call(self) -> None:
        answer = httpx.get(f"{URL}/v1/models", headers=GOOD | {"Origin": ORIGIN})
        assert "access-control-allow-origin" not in answer.headers
        assert httpx.options(f"{URL}/v1/models", headers={"Origin": ORIGIN}).status_code == 401

    def test_wrong_method_is_405(self) -> None:
        assert httpx.get(f"{URL}/v1/chat/completions", headers=GOOD).status_code == 405
        assert httpx.delete(f"{URL}/v1/models", headers=GOOD).status_code == 405

    @pytest.mark.parametrize(("status", "request_text"), sorted(REFUSED_BY_NGINX.items()))
    def test_what_nginx_refuses_has_openais_shape(self, status: int, request_text: str) -> None:
        head, _, body = exchange(request_text).partition("\r\n\r\n")
        assert int(head.split()[1]) == status
        assert "application/json" in head
        error = json.loads(body)["error"]
        assert error["type"] == "invalid_request_error"
        assert error["message"]

    def test_streams_are_not_buffered(self) -> None:
        began = time.monotonic()
        with httpx.stream("POST", f"{URL}/v1/completions", headers=GOOD, json={}) as answer:
            times = [time.monotonic() - began for _ in answer.iter_raw()]
        assert len(times) >= 5
        assert times[0] < 0.5 < times[-1]


def test_pages_of_allowed_origins_may_call(engine: Path, tmp_path: Path) -> None:
    with running(engine, tmp_path, "--allow-origin", ORIGIN):
        wait_until(is_up, "the proxy is up", 60, every=0.1)
        asked = {"Origin": ORIGIN, "Access-Control-Request-Headers": "authorization,content-type"}
        preflight = httpx.options(f"{URL}/v1/chat/completions", headers=asked)
        assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (204, ORIGIN)
        assert preflight.headers["access-control-allow-headers"] == "authorization,content-type"
        assert "POST" in preflight.headers["access-control-allow-methods"]
        for headers in (GOOD, {}):
            answer = httpx.get(f"{URL}/v1/models", headers=headers | {"Origin": ORIGIN})
            assert answer.headers["access-control-allow-origin"] == ORIGIN, "pages can read errors too"
        for origin in ("https://app.example.com.evil.org", "https://APP.example.com", "https://appXexample.com"):
            assert "access-control-allow-origin" not in httpx.options(URL, headers={"Origin": origin}).headers


def test_every_origin_may_be_allowed(engine: Path, tmp_path: Path) -> None:
    with running(engine, tmp_path, "--allow-origin", "*"):
        wait_until(is_up, "the proxy is up", 60, every=0.1)
        answer = httpx.get(f"{URL}/v1/models", headers=GOOD | {"Origin": "https://any.example"})
        assert answer.headers["access-control-allow-origin"] == "*"


def test_engine_that_is_away_is_503_and_says_when_to_retry(tmp_path: Path) -> None:
    with running(tmp_path / "nobody.sock", tmp_path):
        wait_until(is_listening, "the proxy listens", 60, every=0.1)
        answer = httpx.get(f"{URL}/v1/models", headers=GOOD)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert answer.json()["error"] == {
            "message": "The engine is not ready.", "type": "server_error", "param": None, "code": 503
        }  # fmt: skip


def test_sigterm_lets_a_stream_finish(proxy: Proxy, tmp_path: Path) -> None:
    text = ""
    with httpx.stream("POST", f"{URL}/v1/completions", headers=GOOD, json={}) as answer:
        for chunk in answer.iter_text():
            if not text:
                proxy.send_signal(signal.SIGTERM)
                assert not (tmp_path / "drained").exists()
            text += chunk
    assert text.count("data:") == 10
    assert proxy.wait(timeout=60) == 0
    assert (tmp_path / "drained").exists(), "the engine may end now"


def test_changed_key_is_reloaded(proxy: Proxy, tmp_path: Path) -> None:
    (tmp_path / "auth" / "key").write_text("another-key-123")
    new = {"Authorization": "Bearer another-key-123"}
    wait_until(lambda: httpx.get(f"{URL}/v1/models", headers=new).status_code == 200, "the new key is known", 15)
    assert httpx.get(f"{URL}/v1/models", headers=GOOD).status_code == 401


def test_without_key_listed_routes_are_open(engine: Path, tmp_path: Path) -> None:
    with running(engine, tmp_path, key=None):
        wait_until(is_up, "the proxy is up", 60, every=0.1)
        assert httpx.get(f"{URL}/v1/models").status_code == 200
        assert httpx.get(f"{URL}/adapters").status_code == 404


@pytest.mark.parametrize("key", ["", "short", "has a space", "späße-und-mehr"])
def test_unusable_key_is_bad_input(engine: Path, tmp_path: Path, key: str) -> None:
    with running(engine, tmp_path, key=key) as process:
        assert process.wait(timeout=60) == 65
    termination = json.loads((tmp_path / "termination").read_text())
    assert termination["reason"] == "InvalidAPIKey"
    assert "API key" in termination["message"]


def test_log_holds_no_key(proxy: Proxy) -> None:
    httpx.get(f"{URL}/v1/models?api_key={KEY}", headers=GOOD)
    proxy.terminate()
    log, _ = proxy.communicate(timeout=60)
    assert "/v1/models" in log
    assert KEY not in log
