"""What the kubelet asks the engine's container: GET /startupz and /livez."""

import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Probe = Callable[[], bool]


def serve_probes(port: int, has_started: Probe, lives: Probe) -> None:
    """Answers in threads of its own: 200 where the probe is true, else 503.

    /livez only fails when the supervisor itself does: it kills an engine that hangs, and says why it did.
    """
    server = ThreadingHTTPServer(("", port), handler({"/startupz": has_started, "/livez": lives}))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()


def handler(probes: Mapping[str, Probe]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            probe = probes.get(self.path)
            self.send_response(404 if probe is None else 200 if probe() else 503)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """The kubelet's requests do not belong in the engine's log."""

    return Handler
