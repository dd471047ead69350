"""Running other programs, and saying what is being done and how long it took."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Refused(Exception):
    """This host cannot do it; the message says what is missing and what to do."""


class Failed(Exception):
    """A command failed; the message holds the command and the end of its output."""


def run(
    *command: str | Path,
    stdin: str | bytes | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
) -> str:
    """Standard output of a command, stripped. Raises Failed unless it exits 0."""
    words = [str(word) for word in command]
    data = stdin.encode() if isinstance(stdin, str) else stdin
    try:
        done = subprocess.run(
            words,
            input=data,
            stdin=subprocess.DEVNULL if data is None else None,
            capture_output=True,
            check=False,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"{' '.join(words)}: no end after {timeout:.0f} s") from None
    except FileNotFoundError:
        raise Failed(f"{words[0]}: not found") from None
    if done.returncode:
        said = (done.stdout + done.stderr).decode(errors="replace").strip().splitlines()[-25:]
        raise Failed(f"{' '.join(words)}: exit {done.returncode}\n  " + "\n  ".join(said))
    return done.stdout.decode(errors="replace").strip()


def succeeds(*command: str | Path, **options: Any) -> bool:
    try:
        run(*command, **options)
    except Failed:
        return False
    return True


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextmanager
def step(what: str) -> Iterator[None]:
    """Says what begins, and how long it took."""
    begun = time.monotonic()
    say(f"==> {what}")
    yield
    say(f"    {what}: {time.monotonic() - begun:.1f} s")


def at_once(*jobs: Callable[[], object]) -> None:
    """Runs the jobs beside each other, waits for all of them, raises the first error."""
    with ThreadPoolExecutor(len(jobs)) as pool:
        for done in [pool.submit(job) for job in jobs]:
            done.result()


def wait_until(true: Callable[[], bool], seconds: float, pause: float = 0.5) -> bool:
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(pause)
    return True
