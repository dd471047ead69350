"""Compression of data files, by the last ending of the file's name: a new one is one module and one line here."""

from pathlib import Path
from typing import IO, Final, Protocol

from tuneyard_trainer.data.compression import gz, uncompressed, zst


class Compression(Protocol):
    """A module that decompresses files."""

    NAME: str
    """The program that compresses, for messages."""
    ERRORS: tuple[type[Exception], ...]
    """What reading raises when the file is damaged or not compressed."""

    def open_file(self, path: Path) -> IO[bytes]:
        """The decompressed content of a file."""
        ...


COMPRESSIONS: Final[dict[str, Compression]] = {
    ".gz": gz,
    ".zst": zst,
}


def compression_of(ending: str) -> Compression:
    """What opens a file whose name has this last ending."""
    return COMPRESSIONS.get(ending, uncompressed)
