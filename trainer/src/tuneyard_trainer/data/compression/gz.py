"""gzip: .gz files."""

import gzip
import zlib
from pathlib import Path
from typing import IO, Final, cast

NAME: Final = "gzip"
ERRORS: Final[tuple[type[Exception], ...]] = (gzip.BadGzipFile, EOFError, zlib.error)


def open_file(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path))
