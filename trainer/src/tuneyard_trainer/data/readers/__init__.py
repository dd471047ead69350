"""File formats, by the ending of the file's name: a new one is one module with `read` and one line here."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Final, Protocol

from tuneyard_api import reasons
from tuneyard_trainer.data.compression import COMPRESSIONS, compression_of
from tuneyard_trainer.data.readers import json_lines
from tuneyard_trainer.data.readers.row import Row
from tuneyard_trainer.runtime.errors import BadInput


class Reader(Protocol):
    """A module that reads a file format."""

    def read(self, stream: IO[bytes], uri: str) -> Iterator[Row]:
        """The rows of a file, decompressed, in order.

        Raises:
            BadInput: the file does not have this format; names the URI and where in the file.
        """
        ...


READERS: Final[dict[str, Reader]] = {
    ".jsonl": json_lines,
    ".ndjson": json_lines,
}


def endings() -> tuple[str, ...]:
    """The endings of all names that are read below a prefix."""
    return (*READERS, *(ending + compression for compression in COMPRESSIONS for ending in READERS))


def read_rows(path: Path, uri: str) -> Iterator[Row]:
    """The rows of the file at `path`, a copy of `uri`. A name without a known ending is read as JSON Lines.

    Raises:
        BadInput: the file cannot be decompressed, or see Reader.read.
    """
    name = PurePosixPath(uri)
    compression = compression_of(name.suffix)
    ending = PurePosixPath(name.stem).suffix if name.suffix in COMPRESSIONS else name.suffix
    reader = READERS.get(ending, json_lines)
    last = Row({}, uri, 0)
    try:
        with compression.open_file(path) as stream:
            for row in reader.read(stream, uri):
                yield row
                last = row
    except compression.ERRORS as error:
        raise BadInput(
            reasons.INVALID_JSON,
            f"{uri}, after {last.unit} {last.number}: not a whole {compression.NAME} file ({error})",
            f"Compress it with {compression.NAME} again, or upload it uncompressed.",
        ) from error
