"""Runs the engine as a child: passes its log on, ends it only after the proxy has drained, says why it crashed."""

import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from types import FrameType

from tuneyard_server.engines.base import Command
from tuneyard_server.termination import write_message

log = logging.getLogger(__name__)

KEPT_LINES = 200
POLL_SECONDS = 0.2

# The last word of a Python traceback: `ValueError: …`, `torch.OutOfMemoryError: …`.
ERROR_LINE = re.compile(r"(?:^|\s)([\w.]*(?:Error|Exception)): (.+)")


def supervise(command: Command, socket: Path, drained: Path, drain_seconds: float) -> int:
    """Runs the engine to its end; returns its exit code, 0 when it was asked to stop."""
    # Left by an engine that crashed in this pod before: nothing can be bound to a path that exists.
    socket.unlink(missing_ok=True)
    environment = os.environ | command.environment
    log.info("starting %s", " ".join(command.argv))
    engine = subprocess.Popen(
        command.argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    stopping = threading.Event()

    def stop(signum: int, frame: FrameType | None) -> None:
        if not stopping.is_set():
            stopping.set()
            threading.Thread(target=_stop_after_drain, args=(engine, drained, drain_seconds), daemon=True).start()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    lines: deque[str] = deque(maxlen=KEPT_LINES)
    for line in engine.stdout or ():
        sys.stdout.write(line)
        sys.stdout.flush()
        lines.append(line)
    code = engine.wait()
    if stopping.is_set():
        return 0
    write_message("EngineCrashed", f"The engine exited with {code}: {cause(lines)}", "The engine's log says more.")
    return code if code > 0 else 1


def _stop_after_drain(engine: subprocess.Popen[str], drained: Path, drain_seconds: float) -> None:
    """Streams that run still need the engine: it ends when the proxy has said that none is left."""
    deadline = time.monotonic() + drain_seconds
    while not drained.exists() and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    log.info("drained, stopping the engine" if drained.exists() else "not drained in time, stopping the engine")
    engine.terminate()


def cause(lines: Iterable[str]) -> str:
    """The error that a person needs: the last one that is not just "the engine core failed"."""
    found = [(match, after) for line, after in pairwise([*lines, ""]) if (match := ERROR_LINE.search(line))]
    telling = [each for each in found if "Engine core initialization failed" not in each[0][2]]
    if not found:
        return "no error in its log"
    match, after = (telling or found)[-1]
    # pydantic says on the next line what is wrong, and then shows the whole input.
    text = after.partition(" [type=")[0] if "validation error" in match[2] else match[2]
    return f"{match[1]}: {text.strip()}"
