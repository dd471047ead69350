"""Where things that are expensive to make are kept, outside the clone."""

import os
from pathlib import Path


def directory(name: str) -> Path:
    """$TUNEYARD_CACHE/<name>, by default under $XDG_CACHE_HOME/tuneyard or ~/.cache/tuneyard; made when missing."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = Path(os.environ.get("TUNEYARD_CACHE") or home / "tuneyard") / name
    path.mkdir(parents=True, exist_ok=True)
    return path
