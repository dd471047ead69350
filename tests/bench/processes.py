"""Programs under test, what they use, and how busy the machine is."""

import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

TICKS: Final = os.sysconf("SC_CLK_TCK")
READY_SECONDS: Final = 120.0


@dataclass(frozen=True)
class Program:
    """A running program; what it uses is read from /proc."""

    name: str
    process: subprocess.Popen[bytes]
    ready_url: str
    started: float  # time.monotonic()
    log: Path

    @property
    def rss(self) -> int:
        """Resident memory in bytes."""
        return self._memory("VmRSS")

    @property
    def peak(self) -> int:
        return self._memory("VmHWM")

    @property
    def cpu(self) -> float:
        """CPU seconds, user and system together."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def wait_ready(self) -> float:
        """Seconds from the start to the first 200 of its readiness endpoint."""
        while time.monotonic() < self.started + READY_SECONDS:
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.name} ended: {self.log.read_text(errors='replace')[-2000:]}")
            if _answers(self.ready_url):
                return time.monotonic() - self.started
            time.sleep(0.01)
        raise TimeoutError(f"{self.name} is not ready after {READY_SECONDS:.0f} s: {self.log}")

    def _memory(self, field: str) -> int:
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        (line,) = [line for line in lines if line.startswith(f"{field}:")]
        return int(line.split()[1]) * 1024


@contextmanager
def program(
    name: str, command: Sequence[str], environment: Mapping[str, str], ready_url: str, folder: Path
) -> Iterator[Program]:
    """Runs a program until the block ends; its output goes to a file in `folder`."""
    path = folder / f"{name}.log"
    with path.open("ab") as log:
        started = time.monotonic()
        process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=log, stderr=log)
    try:
        yield Program(name, process, ready_url, started, path)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def load_average() -> str:
    """The averages of 1, 5 and 15 minutes, as `uptime` prints them."""
    return " ".join(f"{average:.1f}" for average in os.getloadavg())


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - loopback
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False
