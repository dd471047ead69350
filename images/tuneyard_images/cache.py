"""The cache outside the clone, for binaries and models that take minutes to make."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def directory(name: str) -> Path:
    """$TUNEYARD_CACHE/<name>, by default under $XDG_CACHE_HOME/tuneyard or ~/.cache/tuneyard; created if missing."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = Path(os.environ.get("TUNEYARD_CACHE") or home / "tuneyard") / name
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def build_lock() -> Iterator[None]:
    """Allows one build at a time: the clean-up after a build would delete the intermediate images of another one."""
    with (directory("locks") / "images").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
