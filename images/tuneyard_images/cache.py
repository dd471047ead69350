"""Where things that are expensive to make are kept, outside the clone."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def directory(name: str) -> Path:
    """$TUNEYARD_CACHE/<name>, by default under $XDG_CACHE_HOME/tuneyard or ~/.cache/tuneyard; made when missing."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = Path(os.environ.get("TUNEYARD_CACHE") or home / "tuneyard") / name
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def alone() -> Iterator[None]:
    """One build at a time: the clean-up after one would take away the intermediate images of another."""
    with (directory("locks") / "images").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
