"""Runs the engine as a child process: forwards its log, ends it when it hangs or has to stop, and explains its end."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, NamedTuple

from tuneyard_api import reasons
from tuneyard_api.contracts.serving import Speculation
from tuneyard_api.contracts.termination import termination_message, write_termination_message
from tuneyard_server.engines.base import Cause, Command, Engine
from tuneyard_server.memory import OutOfMemoryCount
from tuneyard_server.probes import serve_probes
from tuneyard_server.watchdog import Limits, Watchdog, ask, observed

log = logging.getLogger(__name__)

KEPT_LINES: Final = 2000
POLL_SECONDS: Final = 0.2
WATCH_SECONDS: Final = 5.0


class Shutdown(NamedTuple):
    """How an engine is stopped."""

    drained: Path
    """The file that the proxy creates when it has no running request left."""
    drain_seconds: float = 90
    """How long SIGTERM waits for that file at most."""
    stop_seconds: float = 15
    """How long the engine may take to stop; then all its processes are killed."""


class Supervisor:
    """One engine, from its start to its end."""

    def __init__(self, command: Command, engine: Engine[Any], socket: Path, shutdown: Shutdown, limits: Limits) -> None:
        self.engine, self.socket, self.shutdown = engine, socket, shutdown
        self.watchdog = Watchdog(limits)
        self.stopping = threading.Event()
        self.hung: str | None = None
        self.last_lines: deque[str] = deque(maxlen=KEPT_LINES)
        self.out_of_memory = OutOfMemoryCount()
        # A crashed engine leaves its socket behind, and nothing can bind to a path that exists.
        socket.unlink(missing_ok=True)
        log.info("starting %s", " ".join(command.argv))
        self.process = subprocess.Popen(
            command.argv,
            env=os.environ | command.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # its processes are one group, so that none is left behind
        )

    def run(self, probes_port: int | None) -> int:
        """Until the engine ends. Returns its exit code; 0 when it was asked to stop, 1 when it was killed.

        Args:
            probes_port: where the kubelet asks whether it has started and lives; None: nowhere.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        forwarding = threading.Thread(target=self._forward_log, daemon=True)
        forwarding.start()
        threading.Thread(target=self._watch, daemon=True).start()
        if probes_port is not None:
            probes = {"/startupz": lambda: self.watchdog.has_answered, "/livez": lambda: self.hung is None}
            serve_probes(probes_port, probes, {"/speculation": self._speculation})
        code = self.process.wait()
        self._kill()  # what it has started and left behind, which also holds the pipe of its log
        forwarding.join(timeout=5)
        if self.stopping.is_set():
            return 0
        cause = self._cause(code)
        log.error("%s: %s", cause.reason, cause.message)
        write_termination_message(termination_message(cause.reason, cause.message, cause.advice))
        return code if code > 0 else 1

    def _cause(self, code: int) -> Cause:
        if self.hung:
            message = f"The engine {self.hung}, and was killed"
            return Cause(message, reasons.ENGINE_HUNG, "See the engine's log (kubectl logs --previous).")
        found = self.engine.explain(self.last_lines)
        if self.out_of_memory.has_grown():
            message = f"A process of the engine was killed because the container has no more memory: {found.message}"
            advice = "Raise resources.limits.memory, or lower what the engine needs: the context, the key-value cache."
            return Cause(message, reasons.OUT_OF_MEMORY, advice)
        ended = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
        return found._replace(message=f"The engine {ended}: {found.message}")

    def _speculation(self) -> Speculation | None:
        status, metrics = ask(self.socket, "/metrics")
        return self.engine.speculation(metrics) if status == HTTPStatus.OK else None

    def _on_signal(self, *_: object) -> None:
        if not self.stopping.is_set():
            self.stopping.set()
            threading.Thread(target=self._stop_after_drain, daemon=True).start()

    def _forward_log(self) -> None:
        """Copies the engine's output to ours until it ends, and keeps its last lines."""
        for line in self.process.stdout or ():
            sys.stdout.write(line)
            sys.stdout.flush()
            self.last_lines.append(line)

    def _watch(self) -> None:
        """Kills the engine when it hangs."""
        last = time.monotonic()
        while self.process.poll() is None and not self.stopping.wait(WATCH_SECONDS):
            answers, work = observed(self.socket, self.engine.work)
            now = time.monotonic()
            if problem := self.watchdog.observe(now - last, answers, work):
                log.error("the engine %s; it is killed", problem)
                self.hung = problem
                self._kill()
                return
            last = now

    def _stop_after_drain(self) -> None:
        """Stops the engine when the proxy has no running request left, or when the time is up."""
        deadline = time.monotonic() + self.shutdown.drain_seconds
        while not self.shutdown.drained.exists() and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        is_drained = self.shutdown.drained.exists()
        log.info("drained, stopping the engine" if is_drained else "not drained in time, stopping the engine")
        self.process.terminate()
        try:
            self.process.wait(self.shutdown.stop_seconds)
        except subprocess.TimeoutExpired:
            log.warning("the engine did not stop within %.0f s; it is killed", self.shutdown.stop_seconds)
            self._kill()

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
