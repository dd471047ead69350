"""Artifacts: directories in a store whose manifest, written last, has the size and SHA-256 of every file."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from tuneyard_api.contracts.artifact import MANIFEST, Manifest, ManifestFile
from tuneyard_store.errors import ArtifactCorrupt, ObjectNotFound
from tuneyard_store.store import Store

CHUNK_BYTES: Final = 4 * 2**20
PUBLISH_AGAIN: Final = (
    "Do not serve it, and find out who changed it. To publish it again, delete the directory export of its run in the "
    "store and set spec.rerun of its FineTuneJob to another value; what tuneyard push has uploaded is uploaded again."
)
WHICH_DIGEST: Final = (
    "If the digest in the spec was mistyped, write the one in status.artifacts of the FineTuneJob. Otherwise somebody "
    "has changed it: do not serve it, find out who, and publish it again."
)

OnBytes = Callable[[int], None]


def describe_directory(directory: Path, form: str) -> Manifest:
    """The manifest of all files below `directory`, except a manifest of an earlier run."""
    return describe_files(directory, files_below(directory), form)


def files_below(directory: Path) -> list[str]:
    """The paths of all files, except a manifest of an earlier run."""
    paths = [path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()]
    return [path for path in paths if path != MANIFEST]


def describe_files(directory: Path, paths: Iterable[str], form: str) -> Manifest:
    """The manifest of some files below `directory`."""
    return _manifest(directory, form, {path: _sha256(directory / path) for path in sorted(paths)})


def _manifest(directory: Path, form: str, digests: Mapping[str, str]) -> Manifest:
    files = [
        ManifestFile(path=path, size_bytes=(directory / path).stat().st_size, sha256=sha256)
        for path, sha256 in sorted(digests.items())
    ]
    return Manifest(format=form, files=tuple(files))


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def publish_directory(store: Store, directory: Path, uri: str, form: str) -> Manifest:
    """Uploads the files and, as the last object, the manifest: an artifact without a manifest is incomplete.

    A file is read once: its digest is that of the bytes that were sent.
    """
    root = uri.rstrip("/")
    sent = store.upload_all({f"{root}/{path}": directory / path for path in files_below(directory)})
    manifest = _manifest(directory, form, {name.removeprefix(f"{root}/"): sha256 for name, sha256 in sent.items()})
    store.write(f"{root}/{MANIFEST}", manifest.to_json(), "application/json")
    return manifest


def publish_files(store: Store, directory: Path, uri: str, manifest: Manifest) -> None:
    """Uploads the files of a manifest and, as the last object, the manifest."""
    store.upload_all({f"{uri.rstrip('/')}/{file.path}": directory / file.path for file in manifest.files})
    store.write(f"{uri.rstrip('/')}/{MANIFEST}", manifest.to_json(), "application/json")


def read_manifest(store: Store, uri: str) -> Manifest:
    """The manifest of the artifact at `uri`.

    Raises:
        ObjectNotFound: there is no manifest.
        ArtifactCorrupt: see parse_manifest.
    """
    manifest_uri = f"{uri.rstrip('/')}/{MANIFEST}"
    return parse_manifest(store.read(manifest_uri), manifest_uri)


def parse_manifest(text: bytes, uri: str) -> Manifest:
    """Raises ArtifactCorrupt when the text is not a manifest, or when a path of it leaves the directory."""
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in problem["loc"])
        raise ArtifactCorrupt(f"{uri} is not a manifest ({field}: {problem['msg']})", PUBLISH_AGAIN) from error


def fetch_directory(
    store: Store, uri: str, to: Path, expected_digest: str | None = None, on_bytes: OnBytes = lambda count: None
) -> Manifest:
    """Downloads an artifact and verifies each file while it is read.

    Args:
        expected_digest: the manifest's; nothing is downloaded when it differs.
        on_bytes: called with the size of each chunk that was read.

    Raises:
        ObjectNotFound: there is no manifest.
        ArtifactCorrupt: names the file, the expected and the found digest.
    """
    manifest = read_manifest(store, uri)
    if expected_digest and manifest.digest != expected_digest:
        raise ArtifactCorrupt(
            f"{uri}/{MANIFEST} has digest {manifest.digest}, expected {expected_digest}", WHICH_DIGEST
        )
    for file in manifest.files:
        _fetch(store, f"{uri.rstrip('/')}/{file.path}", to / file.path, file, on_bytes)
    return manifest


def _fetch(store: Store, uri: str, path: Path, file: ManifestFile, on_bytes: OnBytes) -> None:
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
        raise ArtifactCorrupt(f"{uri} is in the manifest but not in the store", PUBLISH_AGAIN) from error
    if (size, digest.hexdigest()) != (file.size_bytes, file.sha256):
        path.unlink()
        raise ArtifactCorrupt(
            f"{uri} differs from its manifest: expected sha256:{file.sha256} ({file.size_bytes} bytes), "
            f"found sha256:{digest.hexdigest()} ({size} bytes)",
            PUBLISH_AGAIN,
        )
    path.chmod(0o644)
