"""Whether an engine still works: it answers /health, and it computes while it has requests."""

import http.client
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from tuneyard_server.engines.base import Work

ANSWER_SECONDS: Final = 10.0


class Limits(NamedTuple):
    """For how many seconds an engine may do nothing."""

    start: float
    """From its start to its first answer: see `start_seconds`."""
    silence: float = 90
    """Without an answer to /health, once it has answered. vLLM's API server may work on a long prompt for some."""
    standstill: float = 300
    """With requests and without a step. A step of a large prompt on a slow CPU takes many seconds."""


def start_seconds(model_bytes: int) -> float:
    """How long an engine may take until it answers: half an hour, and the time to read its weights at 50 MB/s.

    Importing, loading and warming up take one minute on a quiet machine, and more than ten on one with twenty times
    as many busy processes as cores, where a restart would only cost more.
    """
    return 1800 + model_bytes / 50e6


class Watchdog:
    """Counts for how long an engine has not answered and not computed.

    It counts the time between two observations, but no more than `most` of each: a machine that was suspended for an
    hour has not watched an engine hang for an hour.
    """

    def __init__(self, limits: Limits, most: float = 30) -> None:
        self.limits = limits
        self.most = most
        self.has_answered = False
        self._silent = 0.0
        self._still = 0.0
        self._steps: float | None = None

    def observe(self, seconds: float, answers: bool, work: Work | None) -> str | None:
        """What is wrong with the engine, or None.

        Args:
            seconds: since the last observation.
            answers: whether it has answered /health.
            work: what it does; None where that is unknown.
        """
        seconds = min(seconds, self.most)
        self.has_answered = self.has_answered or answers
        self._silent = 0 if answers else self._silent + seconds
        is_still = work is not None and work.requests > 0 and work.steps == self._steps
        self._still = self._still + seconds if is_still else 0
        self._steps = work.steps if work else None
        return self._silence() or self._standstill(work)

    def _silence(self) -> str | None:
        limit = self.limits.silence if self.has_answered else self.limits.start
        if self._silent < limit:
            return None
        asked = "answer /health for" if self.has_answered else "start to answer within"
        return f"did not {asked} {limit:.0f} s"

    def _standstill(self, work: Work | None) -> str | None:
        if work is None or self._still < self.limits.standstill:
            return None
        return f"has {work.requests} request(s) and has computed nothing for {self.limits.standstill:.0f} s"


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=ANSWER_SECONDS)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))


def ask(path: Path, route: str) -> tuple[int, str]:
    """(status, body) of a GET over a unix socket; the status is 0 where nobody answers in time."""
    connection = _UnixConnection(path)
    try:
        connection.request("GET", route)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    except (OSError, http.client.HTTPException):
        return 0, ""
    finally:
        connection.close()


def observed(path: Path, read_work: Callable[[str], Work | None]) -> tuple[bool, Work | None]:
    """(whether the engine at the socket answers, what it does).

    An engine that answers with an error is not silent: it ends by itself, with a cause in its log.
    """
    status, _ = ask(path, "/health")
    if status != 200:
        return status > 0, None
    status, metrics = ask(path, "/metrics")
    return True, read_work(metrics) if status == 200 else None
