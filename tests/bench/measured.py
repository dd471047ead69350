"""What a program takes: time, CPU and memory. With the standard library alone, so that it runs in any image."""

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from statistics import median
from typing import NamedTuple


class Measured(NamedTuple):
    """One run of a program."""

    wall_seconds: float
    cpu_seconds: float
    peak_mib: float


def run(command: Sequence[str], env: Mapping[str, str] | None = None) -> Measured:
    """Runs a program in a process of its own. Raises SystemExit when it fails."""
    os.sync()  # what other programs have written is on the disk, and not written meanwhile
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=env)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command[0]} ended with status {status}")
    return Measured(time.monotonic() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def medians(runs: Sequence[Measured]) -> Measured:
    return Measured(*(median(values) for values in zip(*runs, strict=True)))
