"""Zstandard: .zst files, with the module that Python 3.14 has as compression.zstd."""

from pathlib import Path
from typing import IO, Final, cast

from backports import zstd

NAME: Final = "zstd"
ERRORS: Final[tuple[type[Exception], ...]] = (zstd.ZstdError, EOFError)


def open_file(path: Path) -> IO[bytes]:
    return cast(IO[bytes], zstd.open(path))
