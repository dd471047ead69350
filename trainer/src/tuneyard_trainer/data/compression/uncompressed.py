"""Files that are read as they are."""

from pathlib import Path
from typing import IO, Final

NAME: Final = ""
ERRORS: Final[tuple[type[Exception], ...]] = ()


def open_file(path: Path) -> IO[bytes]:
    return path.open("rb")
