"""How far a stage is: thread-safe state, and a small HTTP server that the operator and Prometheus read it from."""

import json
import logging
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, NamedTuple

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest

log = logging.getLogger(__name__)


class Snapshot(NamedTuple):
    """One moment of a stage; None: not known."""

    stage: str
    percent: int = 0
    step: int | None = None
    steps: int | None = None
    loss: float | None = None
    tokens_per_second: float | None = None
    eta_seconds: int | None = None
    message: str | None = None

    def wire(self) -> dict[str, Any]:
        return {
            "stage": self.stage,
            "percent": self.percent,
            "step": self.step,
            "steps": self.steps,
            "loss": self.loss,
            "tokensPerSecond": self.tokens_per_second,
            "etaSeconds": self.eta_seconds,
            "message": self.message,
        }


class Progress:
    """A stage's progress. Updates name what has changed; the rest stays."""

    def __init__(
        self,
        stage: str,
        listener: Callable[[Snapshot], None] = lambda snapshot: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lock = threading.Lock()
        self._snapshot = Snapshot(stage)
        self._listener = listener
        self._clock = clock
        self._first_step: tuple[int, float] | None = None  # the step that was seen first, and when

    def update(
        self,
        *,
        percent: int | None = None,
        step: int | None = None,
        steps: int | None = None,
        loss: float | None = None,
        tokens_per_second: float | None = None,
        message: str | None = None,
    ) -> None:
        given: dict[str, Any] = {
            "percent": None if percent is None else max(0, min(100, int(percent))),
            "step": step,
            "steps": steps,
            "loss": loss,
            "tokens_per_second": tokens_per_second,
            "message": message,
        }
        with self._lock:
            changed = self._snapshot._replace(**{name: value for name, value in given.items() if value is not None})
            self._snapshot = changed._replace(eta_seconds=self._eta(changed))
        self._listener(self._snapshot)

    def _eta(self, now: Snapshot) -> int | None:
        """Seconds until the last step at the speed since the first one that was seen; a resumed run has its own."""
        if now.step is None or not now.steps:
            return None
        if self._first_step is None:
            self._first_step = now.step, self._clock()
        first, since = self._first_step
        if now.step <= first:
            return None
        return round((self._clock() - since) / (now.step - first) * (now.steps - now.step))

    def snapshot(self) -> Snapshot:
        with self._lock:
            return self._snapshot


METRICS: Final = {
    "tuneyard_stage_percent": ("How far the stage is.", "percent"),
    "tuneyard_train_step": ("Optimizer steps that are done.", "step"),
    "tuneyard_train_steps": ("Optimizer steps in all.", "steps"),
    "tuneyard_train_loss": ("Loss of the last step (nats per token).", "loss"),
    "tuneyard_train_tokens_per_second": ("Tokens trained per second.", "tokens_per_second"),
    "tuneyard_stage_eta_seconds": ("Seconds until the stage is done.", "eta_seconds"),
}


def render_metrics(snapshot: Snapshot) -> bytes:
    """The snapshot in the Prometheus text format; what is not known is left out."""
    registry = CollectorRegistry()
    for name, (text, field) in METRICS.items():
        value = getattr(snapshot, field)
        if value is not None:
            Gauge(name, text, ["stage"], registry=registry).labels(snapshot.stage).set(value)
    return generate_latest(registry)


def serve_progress(progress: Progress, port: int) -> ThreadingHTTPServer | None:
    """Serves /progress, /metrics and /healthz in the background; a port that is taken does not stop the stage."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/progress":
                self._answer(200, "application/json", json.dumps(progress.snapshot().wire()).encode())
            elif self.path == "/metrics":
                self._answer(200, CONTENT_TYPE_LATEST, render_metrics(progress.snapshot()))
            elif self.path == "/healthz":
                self._answer(200, "text/plain", b"ok\n")
            else:
                self._answer(404, "text/plain", b"There are /progress, /metrics and /healthz.\n")

        def _answer(self, status: int, content_type: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
            """Polling is not worth a log line."""

    try:
        server = ThreadingHTTPServer(("", port), Handler)
    except OSError as error:
        log.warning("no progress on port %d: %s", port, error)
        return None
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="progress", daemon=True).start()
    return server
