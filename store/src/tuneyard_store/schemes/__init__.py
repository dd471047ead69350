"""URI schemes: a new one is one module with a Store and one line here."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Final

from tuneyard_store.credentials import Credentials
from tuneyard_store.errors import StorageMisconfigured
from tuneyard_store.schemes.s3 import S3Store
from tuneyard_store.store import ObjectInfo, Store

SCHEMES: Final[dict[str, Callable[[Credentials], Store]]] = {
    "s3": S3Store,
}


def open_store(credentials: Credentials) -> Store:
    """A store for the URIs of all schemes; the client of a scheme is made when its first URI is used."""
    return _AnyScheme(credentials)


class _AnyScheme:
    """Passes each call to the store of the URI's scheme."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._stores: dict[str, Store] = {}

    def _store(self, uri: str) -> Store:
        scheme = uri.partition("://")[0]
        if scheme not in SCHEMES:
            known = " or ".join(f"{name}://" for name in SCHEMES)
            raise StorageMisconfigured(f"No store serves {uri}", f"Write a URI that begins with {known}.")
        if scheme not in self._stores:
            self._stores[scheme] = SCHEMES[scheme](self._credentials)
        return self._stores[scheme]

    def endpoint(self, uri: str) -> str:
        return self._store(uri).endpoint(uri)

    def list(self, uri: str) -> Iterator[ObjectInfo]:
        return self._store(uri).list(uri)

    def exists(self, uri: str) -> bool:
        return self._store(uri).exists(uri)

    def open(self, uri: str) -> AbstractContextManager[IO[bytes]]:
        return self._store(uri).open(uri)

    def read(self, uri: str) -> bytes:
        return self._store(uri).read(uri)

    def read_range(self, uri: str, start: int, length: int) -> bytes:
        return self._store(uri).read_range(uri, start, length)

    def write(self, uri: str, data: bytes, content_type: str = "application/octet-stream") -> None:
        self._store(uri).write(uri, data, content_type)

    def upload(self, path: Path, uri: str) -> None:
        self._store(uri).upload(path, uri)

    def upload_all(self, files: Mapping[str, Path]) -> dict[str, str]:
        by_store: dict[Store, dict[str, Path]] = defaultdict(dict)
        for uri, path in files.items():
            by_store[self._store(uri)][uri] = path
        digests: dict[str, str] = {}
        for store, of_store in by_store.items():
            digests |= store.upload_all(of_store)
        return digests

    def download(self, uri: str, path: Path) -> None:
        self._store(uri).download(uri, path)

    def delete_prefix(self, uri: str) -> None:
        self._store(uri).delete_prefix(uri)

    def check_writable(self, uri: str) -> None:
        self._store(uri).check_writable(uri)
