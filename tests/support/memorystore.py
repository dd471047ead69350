"""An object store in memory, for stages that run without a server."""

import io
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from hashlib import sha256
from pathlib import Path
from typing import IO

from tuneyard_store.errors import ObjectNotFound
from tuneyard_store.store import ObjectInfo


class MemoryStore:
    """Implements tuneyard_store.store.Store."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.modified: dict[str, float] = {}
        """When an object was written, for those where it matters."""

    def endpoint(self, uri: str) -> str:
        return "memory"

    def list(self, uri: str) -> Iterator[ObjectInfo]:
        for name in sorted(self.objects):
            if name.startswith(uri):
                data = self.objects[name]
                yield ObjectInfo(
                    name, name.split("/", 3)[3], len(data), sha256(data).hexdigest(), self.modified.get(name, 0.0)
                )

    def exists(self, uri: str) -> bool:
        return uri in self.objects

    def open(self, uri: str) -> AbstractContextManager[IO[bytes]]:
        return io.BytesIO(self.read(uri))

    def read(self, uri: str) -> bytes:
        if uri not in self.objects:
            raise ObjectNotFound(f"{uri} does not exist", "")
        return self.objects[uri]

    def read_range(self, uri: str, start: int, length: int) -> bytes:
        return self.read(uri)[start : start + length]

    def write(self, uri: str, data: bytes, content_type: str = "application/octet-stream") -> None:
        self.objects[uri] = data

    def upload(self, path: Path, uri: str) -> None:
        self.objects[uri] = path.read_bytes()

    def upload_all(self, files: Mapping[str, Path]) -> dict[str, str]:
        for uri, path in files.items():
            self.upload(path, uri)
        return {uri: sha256(self.objects[uri]).hexdigest() for uri in files}

    def download(self, uri: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.read(uri))

    def delete_prefix(self, uri: str) -> None:
        for name in [name for name in self.objects if name.startswith(uri)]:
            del self.objects[name]

    def check_writable(self, uri: str) -> None:
        """Memory is writable."""
