"""Stands between a client and an S3 server, and makes the server fail as stores and networks do.

With the standard library alone, so that it runs in any image.
"""

import http.client
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Final, Literal

Fault = Literal["refused", "busy", "cut", "lost", "torn"]
"""Refused: 500. Busy: 503. Cut: the connection ends before the server hears of the request. Lost: it ends after the
server has done what it was asked. Torn: it ends within the answer."""
FAULTS: Final[tuple[Fault, ...]] = ("refused", "busy", "cut", "lost", "torn")
STATUS: Final = {"refused": (500, "InternalError"), "busy": (503, "SlowDown")}
# Between two hops, not from end to end (RFC 9110, 7.6.1); the answer's length is written anew.
HOP: Final = {"connection", "expect", "keep-alive", "transfer-encoding"}

Choose = Callable[[int], Fault | None]
"""The fault that befalls a request, by its number from 0."""


def none(_: int) -> Fault | None:
    return None


def some(share: float, seed: int) -> Choose:
    """Any of the faults, on a share of the requests."""
    chance = random.Random(seed)  # noqa: S311
    return lambda _: chance.choice(FAULTS) if chance.random() < share else None


def once(fault: Fault, at: int) -> Choose:
    """One request."""
    return lambda number: fault if number == at else None


class FaultyS3(ThreadingHTTPServer):
    """Forwards every request to the server on `port`, except what a fault befalls."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.server_behind = port
        self._lock = threading.Lock()
        self.disturb(none)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def disturb(self, choose: Choose) -> None:
        """From now on; requests are numbered from 0 again."""
        self._choose, self._numbers, self.requests = choose, count(), 0

    def next_fault(self) -> Fault | None:
        with self._lock:
            self.requests += 1
            return self._choose(next(self._numbers))

    def handle_error(self, request: object, client_address: object) -> None:
        """The client is gone, which is what some tests do to it."""


class _Handler(BaseHTTPRequestHandler):
    server: FaultyS3
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.server.next_fault()
        if fault == "cut":
            self.close_connection = True
        elif fault in STATUS:
            self._answer(*_refusal(*STATUS[fault]))
        else:
            status, headers, content = self._forward(body)
            if fault == "lost":
                self.close_connection = True
            else:
                self._answer(status, headers, content, torn=fault == "torn")

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve  # noqa: N815

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        with closing(http.client.HTTPConnection("127.0.0.1", self.server.server_behind, timeout=60)) as connection:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in HOP:
                    connection.putheader(name, value)
            connection.endheaders(body)
            with connection.getresponse() as answer:
                return answer.status, answer.getheaders(), answer.read()

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes, *, torn: bool = False) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in HOP:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if torn else content)
        self.close_connection = self.close_connection or torn

    def log_message(self, *_: object) -> None:
        """The tests say what they need."""


def _refusal(status: int, code: str) -> tuple[int, list[tuple[str, str]], bytes]:
    text = f"<Error><Code>{code}</Code><Message>made up by the test</Message></Error>".encode()
    return status, [("Content-Type", "application/xml"), ("Content-Length", str(len(text)))], text


@contextmanager
def faulty_s3(port: int) -> Iterator[FaultyS3]:
    """In front of the server that listens on `port`, without TLS."""
    with FaultyS3(port) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
