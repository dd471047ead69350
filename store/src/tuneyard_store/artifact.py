"""An artifact is a directory with a manifest of its files; its digest depends on their content alone."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple

from tuneyard_store.errors import ArtifactCorrupt, ObjectNotFound
from tuneyard_store.store import Store

MANIFEST: Final = "manifest.json"
CHUNK_BYTES: Final = 4 * 2**20

OnBytes = Callable[[int], None]


class File(NamedTuple):
    path: str  # relative, with forward slashes
    size_bytes: int
    sha256: str  # 64 hex digits

    def wire(self) -> dict[str, Any]:
        return {"path": self.path, "sizeBytes": self.size_bytes, "sha256": self.sha256}


class Manifest(NamedTuple):
    format: str
    files: tuple[File, ...]

    @property
    def digest(self) -> str:
        """sha256: over the canonical JSON of the files, in the order of their paths."""
        files = [file.wire() for file in sorted(self.files)]
        return "sha256:" + hashlib.sha256(canonical_json(files)).hexdigest()

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

    def to_json(self) -> bytes:
        wire = {"format": self.format, "digest": self.digest, "files": [file.wire() for file in sorted(self.files)]}
        return json.dumps(wire, indent=1).encode()

    @classmethod
    def from_json(cls, text: bytes, uri: str) -> "Manifest":
        """Raises ArtifactCorrupt when it is no manifest, or when a path leaves the directory."""
        try:
            wire = json.loads(text)
            files = tuple(File(str(f["path"]), int(f["sizeBytes"]), str(f["sha256"])) for f in wire["files"])
            manifest = cls(str(wire["format"]), files)
        except (ValueError, KeyError, TypeError) as error:
            raise ArtifactCorrupt(f"{uri} is not a manifest ({error})", ASK_FOR_ANOTHER) from error
        for file in files:
            path = PurePosixPath(file.path)
            if path.is_absolute() or ".." in path.parts or file.path in ("", MANIFEST):
                raise ArtifactCorrupt(
                    f"{uri} names the file {file.path!r}", "An artifact's files lie in its directory."
                )
        return manifest


ASK_FOR_ANOTHER: Final = "Do not serve it: publish the artifact again, and find out who changed it."


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys and no spaces: the same value always gives the same bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def describe_directory(directory: Path, form: str) -> Manifest:
    """The manifest of every file below `directory`, read once."""
    paths = sorted(path for path in directory.rglob("*") if path.is_file() and path != directory / MANIFEST)
    return Manifest(form, tuple(_describe(path, directory) for path in paths))


def _describe(path: Path, directory: Path) -> File:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
    return File(path.relative_to(directory).as_posix(), path.stat().st_size, digest.hexdigest())


def publish_directory(store: Store, directory: Path, uri: str, form: str) -> Manifest:
    """Uploads the files and then, as the last object, the manifest: an artifact is complete or has none."""
    manifest = describe_directory(directory, form)
    store.upload_all({f"{uri.rstrip('/')}/{file.path}": directory / file.path for file in manifest.files})
    store.write(f"{uri.rstrip('/')}/{MANIFEST}", manifest.to_json(), "application/json")
    return manifest


def read_manifest(store: Store, uri: str) -> Manifest:
    where = f"{uri.rstrip('/')}/{MANIFEST}"
    return Manifest.from_json(store.read(where), where)


def fetch_directory(
    store: Store, uri: str, to: Path, expected_digest: str | None = None, on_bytes: OnBytes = lambda count: None
) -> Manifest:
    """Downloads an artifact and verifies it on the way; `on_bytes` hears of each chunk.

    Raises ArtifactCorrupt, naming file, expected and found digest, and ObjectNotFound.
    """
    manifest = read_manifest(store, uri)
    if expected_digest and manifest.digest != expected_digest:
        raise ArtifactCorrupt(
            f"{uri}/{MANIFEST} has digest {manifest.digest}, expected {expected_digest}", ASK_FOR_ANOTHER
        )
    for file in manifest.files:
        _fetch(store, f"{uri.rstrip('/')}/{file.path}", to / file.path, file, on_bytes)
    return manifest


def _fetch(store: Store, uri: str, path: Path, file: File, on_bytes: OnBytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    try:
        with store.open(uri) as source, path.open("wb") as target:
            while chunk := source.read(CHUNK_BYTES):
                target.write(chunk)
                digest.update(chunk)
                size += len(chunk)
                on_bytes(len(chunk))
    except ObjectNotFound as error:
        raise ArtifactCorrupt(f"{uri} is in the manifest but not in the store", ASK_FOR_ANOTHER) from error
    if (size, digest.hexdigest()) != (file.size_bytes, file.sha256):
        path.unlink()
        raise ArtifactCorrupt(
            f"{uri} differs from its manifest: expected sha256:{file.sha256} ({file.size_bytes} bytes), "
            f"found sha256:{digest.hexdigest()} ({size} bytes)",
            ASK_FOR_ANOTHER,
        )
    path.chmod(0o644)
