"""Runs the engine as a child process: forwards its log, stops it after the proxy has drained, explains a crash."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path

from tuneyard_api import reasons
from tuneyard_api.contracts.termination import termination_message, write_termination_message
from tuneyard_server.engines.base import Command

log = logging.getLogger(__name__)

KEPT_LINES = 200
POLL_SECONDS = 0.2


def supervise(
    command: Command, explain: Callable[[Iterable[str]], str], socket: Path, drained: Path, drain_seconds: float
) -> int:
    """Runs the engine until it exits. Returns its exit code; 0 when it was asked to stop, 1 when a signal killed it.

    Args:
        command: the program and its environment, which is added to this process's own.
        explain: finds the cause of a crash in the last lines of the log.
        socket: the path that the engine binds.
        drained: the file that the proxy creates when it has no running request left.
        drain_seconds: how long SIGTERM waits for that file at most.
    """
    # A crashed engine leaves its socket behind, and nothing can bind to a path that exists.
    socket.unlink(missing_ok=True)
    log.info("starting %s", " ".join(command.argv))
    engine = subprocess.Popen(
        command.argv,
        env=os.environ | command.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    stopping = threading.Event()

    def stop(*_: object) -> None:
        if not stopping.is_set():
            stopping.set()
            threading.Thread(target=_stop_after_drain, args=(engine, drained, drain_seconds), daemon=True).start()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    last_lines = _forward_log(engine)
    code = engine.wait()
    if stopping.is_set():
        return 0
    message = f"The engine exited with {code}: {explain(last_lines)}"
    write_termination_message(termination_message(reasons.ENGINE_CRASHED, message, "See the engine's log."))
    return code if code > 0 else 1


def _forward_log(engine: subprocess.Popen[str]) -> deque[str]:
    """Copies the engine's output to ours until it ends, and returns its last lines."""
    last_lines: deque[str] = deque(maxlen=KEPT_LINES)
    for line in engine.stdout or ():
        sys.stdout.write(line)
        sys.stdout.flush()
        last_lines.append(line)
    return last_lines


def _stop_after_drain(engine: subprocess.Popen[str], drained: Path, drain_seconds: float) -> None:
    """Stops the engine when the proxy has no running request left, or when the time is up."""
    deadline = time.monotonic() + drain_seconds
    while not drained.exists() and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    log.info("drained, stopping the engine" if drained.exists() else "not drained in time, stopping the engine")
    engine.terminate()
