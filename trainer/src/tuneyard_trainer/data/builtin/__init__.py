"""Rows that come with tuneyard (builtin://): a new set is a file here, <name>.jsonl, and a name in the API."""

import hashlib
from pathlib import Path
from typing import Final

from tuneyard_api.kinds.dataset import BUILTIN
from tuneyard_trainer.data.files import DataFile

HERE: Final = Path(__file__).parent


def is_builtin(uri: str) -> bool:
    return uri.startswith(BUILTIN)


def builtin_files(uri: str) -> list[DataFile]:
    """The file of a set, where it lies in this package."""
    path = HERE / f"{uri.removeprefix(BUILTIN)}.jsonl"
    return [DataFile(f"{uri}.jsonl", path, hashlib.sha256(path.read_bytes()).hexdigest())]
