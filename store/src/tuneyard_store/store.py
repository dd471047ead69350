"""What every store can do, whatever the scheme of its URIs. Importing this module loads no client library."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, NamedTuple, Protocol


class ObjectInfo(NamedTuple):
    """One object of a listing."""

    uri: str
    key: str
    """The path of the object below its bucket, repository or volume."""
    size: int
    """Bytes."""
    etag: str
    """Changes when the content changes."""
    modified: float = 0.0
    """When it was written, in seconds since 1970."""


class Store(Protocol):
    """Objects by URI. Every method raises StoreError only, and names the URI and the endpoint in its message."""

    def endpoint(self, uri: str) -> str:
        """The server that holds `uri`, for messages."""
        ...

    def list(self, uri: str) -> Iterator[ObjectInfo]:
        """The objects whose URI begins with `uri`, in the order of their keys."""
        ...

    def exists(self, uri: str) -> bool: ...

    def open(self, uri: str) -> AbstractContextManager[IO[bytes]]:
        """The object as a stream."""
        ...

    def read(self, uri: str) -> bytes: ...

    def read_range(self, uri: str, start: int, length: int) -> bytes:
        """The bytes from `start` on; fewer than `length` where the object ends before."""
        ...

    def write(self, uri: str, data: bytes, content_type: str = "application/octet-stream") -> None: ...

    def upload(self, path: Path, uri: str) -> None: ...

    def upload_all(self, files: Mapping[str, Path]) -> dict[str, str]:
        """Uploads several files in parallel; the keys are URIs. Returns the SHA-256 of each, as it was read."""
        ...

    def download(self, uri: str, path: Path) -> None:
        """Downloads one object; creates missing folders and makes the file readable for every user."""
        ...

    def delete_prefix(self, uri: str) -> None:
        """Deletes every object whose URI begins with `uri`."""
        ...

    def check_writable(self, uri: str) -> None:
        """Writes and deletes a small object below `uri`."""
        ...
