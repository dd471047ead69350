"""What the engine's container answers: GET /startupz and /livez for the kubelet, /speculation for the operator."""

import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tuneyard_api.contracts.base import Contract

Probe = Callable[[], bool]
Document = Callable[[], Contract | None]


def serve_probes(port: int, probes: Mapping[str, Probe], documents: Mapping[str, Document]) -> None:
    """Answers in threads of its own: 200 where a probe is true, else 503; a document as JSON, 404 where there is none.

    /livez only fails when the supervisor itself does: it kills an engine that hangs, and says why it did.
    """
    server = ThreadingHTTPServer(("", port), handler(probes, documents))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()


def handler(probes: Mapping[str, Probe], documents: Mapping[str, Document]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = HTTPStatus.NOT_FOUND, b""
            if probe := probes.get(self.path):
                status = HTTPStatus.OK if probe() else HTTPStatus.SERVICE_UNAVAILABLE
            elif (read := documents.get(self.path)) and (document := read()):
                status, body = HTTPStatus.OK, document.model_dump_json(by_alias=True).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """These requests do not belong in the engine's log."""

    return Handler
