"""The progress of a stage: thread-safe state, and a small HTTP server for the operator and Prometheus."""

import logging
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest

from tuneyard_api.contracts.progress import ProgressReport

log = logging.getLogger(__name__)


class Progress:
    """The progress of a stage; an update names the fields that have changed."""

    def __init__(
        self,
        stage: str,
        listener: Callable[[ProgressReport], None] = lambda report: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lock = threading.Lock()
        self._report = ProgressReport(stage=stage)
        self._listener = listener
        self._clock = clock
        self._first_step: tuple[int, float] | None = None  # the step of the first update, and its time

    def update(
        self,
        *,
        percent: int | None = None,
        step: int | None = None,
        steps: int | None = None,
        loss: float | None = None,
        validation_loss: float | None = None,
        tokens_per_second: float | None = None,
        message: str | None = None,
    ) -> None:
        given: dict[str, Any] = {
            "percent": None if percent is None else max(0, min(100, int(percent))),
            "step": step,
            "steps": steps,
            "loss": loss,
            "validation_loss": validation_loss,
            "tokens_per_second": tokens_per_second,
            "message": message,
        }
        self._change(given)

    def track(self, url: str) -> None:
        """Says where the run is shown."""
        self._change({"tracking_url": url})

    def _change(self, given: dict[str, Any]) -> None:
        with self._lock:
            changed = self._report.model_copy(update={key: value for key, value in given.items() if value is not None})
            self._report = changed.model_copy(update={"eta_seconds": self._eta(changed)})
            report = self._report
        self._listener(report)

    def _eta(self, report: ProgressReport) -> int | None:
        """Seconds until the last step, at the mean speed since the first update: a resumed run has its own speed."""
        if report.step is None or not report.steps:
            return None
        if self._first_step is None:
            self._first_step = report.step, self._clock()
        first, since = self._first_step
        if report.step <= first:
            return None
        return round((self._clock() - since) / (report.step - first) * (report.steps - report.step))

    def report(self) -> ProgressReport:
        with self._lock:
            return self._report


METRICS: Final = {
    "tuneyard_stage_percent": ("Percent of the stage that is done.", "percent"),
    "tuneyard_train_step": ("Optimizer steps done.", "step"),
    "tuneyard_train_steps": ("Optimizer steps in all.", "steps"),
    "tuneyard_train_loss": ("Loss of the last step (nats per token).", "loss"),
    "tuneyard_validation_loss": ("Loss of the last validation (nats per token).", "validation_loss"),
    "tuneyard_train_tokens_per_second": ("Tokens trained per second.", "tokens_per_second"),
    "tuneyard_stage_eta_seconds": ("Seconds until the stage is done.", "eta_seconds"),
}


def render_metrics(report: ProgressReport) -> bytes:
    """The report in the Prometheus text format, without what is not known."""
    registry = CollectorRegistry()
    for name, (text, field) in METRICS.items():
        value = getattr(report, field)
        if value is not None:
            Gauge(name, text, ["stage"], registry=registry).labels(report.stage).set(value)
    return generate_latest(registry)


def serve_progress(progress: Progress, port: int) -> ThreadingHTTPServer | None:
    """Serves /progress, /metrics and /healthz in the background; None where the port is in use."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/progress":
                self._answer(200, "application/json", progress.report().model_dump_json(by_alias=True).encode())
            elif self.path == "/metrics":
                self._answer(200, CONTENT_TYPE_LATEST, render_metrics(progress.report()))
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
            """Requests are not logged."""

    try:
        server = ThreadingHTTPServer(("", port), Handler)
    except OSError as error:
        log.warning("cannot serve progress on port %d: %s", port, error)
        return None
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="progress", daemon=True).start()
    return server
