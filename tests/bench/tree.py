"""What a program and all its descendants take. With the standard library alone; Linux only."""

import ctypes
import os
import resource
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

PR_SET_CHILD_SUBREAPER: Final = 36  # of prctl(2)
SAMPLE_SECONDS: Final = 0.5


class Tree(NamedTuple):
    """One run of a program."""

    output: str
    wall_seconds: float
    cpu_seconds: float
    """Of all processes."""
    peak_mib: float
    """The most that all processes took together; pages that several share count once (PSS), mapped files included."""


def run(command: Sequence[str], env: Mapping[str, str]) -> Tree:
    """Runs a program until it and all its descendants have ended. Raises SystemExit when it fails."""
    # Orphans of the program become children of this process, which counts what they took once it has waited for them.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    before, started, peaks, ended = _cpu(), time.monotonic(), [0.0], threading.Event()
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
    sampler = threading.Thread(target=_sample, args=(process.pid, peaks, ended))
    sampler.start()
    output, _ = process.communicate()
    wall = time.monotonic() - started
    ended.set()
    sampler.join()
    if process.returncode:
        raise SystemExit(f"{command[0]} ended with status {process.returncode}")
    while _children(os.getpid()):
        os.wait()
    return Tree(output, wall, _cpu() - before, max(peaks))


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _sample(process: int, peaks: list[float], ended: threading.Event) -> None:
    while not ended.wait(SAMPLE_SECONDS):
        peaks.append(sum(map(_pss_mib, _tree(process))))


def _tree(process: int) -> Iterator[int]:
    yield process
    for child in _children(process):
        yield from _tree(child)


def _children(process: int) -> list[int]:
    try:
        threads = [*Path(f"/proc/{process}/task").iterdir()]
        return [int(child) for thread in threads for child in (thread / "children").read_text().split()]
    except OSError:
        return []


def _pss_mib(process: int) -> float:
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:")), 0.0)
