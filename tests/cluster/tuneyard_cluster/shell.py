"""Functions that run other programs, and that print each step and its duration."""

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
    """The host does not meet a requirement; the message says which one and what to do."""


class Failed(Exception):
    """A command failed; the message has the command and the end of its output."""


def run(
    *command: str | Path,
    stdin: str | bytes | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
) -> str:
    """Runs a command and returns its standard output, stripped. Raises Failed unless it exits with 0."""
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
        output = (done.stdout + done.stderr).decode(errors="replace").strip().splitlines()[-25:]
        raise Failed(f"{' '.join(words)}: exit {done.returncode}\n  " + "\n  ".join(output))
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
    """Prints the name of a step when it starts, and its duration at the end."""
    started = time.monotonic()
    say(f"==> {what}")
    yield
    say(f"    {what}: {time.monotonic() - started:.1f} s")


def at_once(*jobs: Callable[[], object]) -> None:
    """Runs the functions concurrently, waits for all of them, and raises the first error."""
    with ThreadPoolExecutor(len(jobs)) as pool:
        for done in [pool.submit(job) for job in jobs]:
            done.result()


def wait_until(check: Callable[[], bool], seconds: float, pause: float = 0.5) -> bool:
    """Returns whether `check` became true within `seconds`."""
    end = time.monotonic() + seconds
    while not check():
        if time.monotonic() > end:
            return False
        time.sleep(pause)
    return True
