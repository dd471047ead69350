"""File formats, by the ending of the file's name: a new one is one module with `read` and one line here."""

import io
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Final, Protocol, cast

from tuneyard_api import reasons
from tuneyard_trainer.data.compression import COMPRESSIONS, compression_of
from tuneyard_trainer.data.compression.bounded import bounded
from tuneyard_trainer.data.readers import delimited, json_lines, json_values, parquet
from tuneyard_trainer.data.readers.mistaken import HEAD_BYTES, other_file
from tuneyard_trainer.data.readers.row import BrokenRow, Place, RawRow, Row, parsed
from tuneyard_trainer.runtime.errors import BadInput


class Reader(Protocol):
    """A module that reads a file format."""

    def read(self, stream: IO[bytes], uri: str) -> Iterator[RawRow]:
        """The rows of a file, decompressed, in order.

        Raises:
            BadInput: the file does not have this format; names the URI and where in the file.
        """
        ...


READERS: Final[dict[str, Reader]] = {
    ".jsonl": json_lines,
    ".ndjson": json_lines,
    ".json": json_lines,
    ".csv": delimited,
    ".tsv": delimited,
    ".parquet": parquet,
}


def endings() -> tuple[str, ...]:
    """The endings of all names that are read below a prefix."""
    return (*READERS, *(ending + compression for compression in COMPRESSIONS for ending in READERS))


def read_rows(path: Path, uri: str) -> Iterator[Row | BrokenRow]:
    """The rows of the file at `path`, a copy of `uri`; see read_raw_rows."""
    return map(parsed, read_raw_rows(path, uri))


def read_raw_rows(path: Path, uri: str) -> Iterator[RawRow]:
    """The rows of the file at `path`, some of them not parsed yet. A name without a known ending is read as JSON.

    Raises:
        BadInput: the file is something else than its name says, or cannot be decompressed; or see Reader.read.
    """
    name = PurePosixPath(uri)
    compression = compression_of(name.suffix)
    ending = PurePosixPath(name.stem).suffix if name.suffix in COMPRESSIONS else name.suffix
    last = Place(uri, 0)
    try:
        with compression.open_file(path) as content:
            stream = bounded(content, path, uri) if compression.NAME else content
            for row in _reader(stream, ending, uri).read(stream, uri):
                yield row
                last = row.place
    except compression.ERRORS as error:
        raise BadInput(
            reasons.INVALID_JSON,
            f"{uri}, after {last.unit} {last.number}: not a whole {compression.NAME} file ({error})",
            f"Compress it with {compression.NAME} again, or upload it uncompressed.",
        ) from error


def _reader(stream: IO[bytes], ending: str, uri: str) -> Reader:
    """The reader of a file by its name; JSON is told from JSON Lines by how it begins.

    Raises:
        BadInput: its first bytes say that it is something else.
    """
    head = cast(io.BufferedReader, stream).peek(HEAD_BYTES)[:HEAD_BYTES]
    if found := other_file(head, ending):
        raise BadInput(reasons.INVALID_FILE, f"{uri} {found.what}", found.advice)
    reader = READERS.get(ending, json_lines)
    return json_values if reader is json_lines and _is_json_document(head) else reader


def _is_json_document(head: bytes) -> bool:
    """Whether objects or an array are spread over lines, so that a line is no row."""
    lines = [line.strip() for line in head.removeprefix(b"\xef\xbb\xbf").split(b"\n", 3) if line.strip()]
    first, second = [*lines, b"", b""][:2]
    if first.startswith(b"["):
        return True
    return first.startswith(b"{") and not first.endswith(b"}") and bool(second) and not second.startswith(b"{")
