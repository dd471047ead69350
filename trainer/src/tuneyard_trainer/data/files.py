"""The files of a source: one object, or all data files below a prefix."""

import hashlib
from pathlib import Path
from typing import Final, NamedTuple

from tuneyard_api import reasons
from tuneyard_store.store import ObjectInfo, Store
from tuneyard_trainer.data.readers import endings
from tuneyard_trainer.runtime.errors import BadInput

CHUNK_BYTES: Final = 2**20
OTHERS_SHOWN: Final = 3


class DataFile(NamedTuple):
    """One object of a source, downloaded."""

    uri: str
    path: Path
    sha256: str


def find_objects(store: Store, uri: str) -> list[ObjectInfo]:
    """The object at `uri`, or the data files below it.

    Raises:
        BadInput: there are none.
    """
    found = list(store.list(uri))
    exact = next((item for item in found if item.uri == uri), None)
    folder = uri.rstrip("/") + "/"
    below = [item for item in found if item.uri.startswith(folder) and not item.uri.endswith("/")]
    if exact and not _is_marker(exact, below):
        return [exact]
    if data := [item for item in below if item.uri.endswith(endings())]:
        return data
    others = [item.uri.removeprefix(folder) for item in below]
    raise _no_data(uri, store.endpoint(uri), others, is_marked=exact is not None)


def _is_marker(item: ObjectInfo, below: list[ObjectInfo]) -> bool:
    """Consoles and file systems mark a folder with an empty object of its name."""
    return not item.size and (item.uri.endswith("/") or bool(below))


def _no_data(uri: str, endpoint: str, others: list[str], is_marked: bool) -> BadInput:
    what = "only the empty object that marks a folder" if is_marked else "no data"
    if others:
        what = f"no data, but {len(others)} other objects ({', '.join(others[:OTHERS_SHOWN])})"
    return BadInput(
        reasons.DATASET_NOT_FOUND,
        f"There is {what} at {uri} in {endpoint}",
        f"Upload it there, or correct the uri: an object, or a prefix with files that end in {', '.join(endings())}.",
    )


def fetch(store: Store, uri: str, directory: Path) -> list[DataFile]:
    """Downloads the files of a source and computes their digests.

    Raises:
        BadInput: there are none, or all are empty.
    """
    directory.mkdir(parents=True, exist_ok=True)
    objects = find_objects(store, uri)
    objects = [item for item in objects if item.size]
    if not objects:
        raise no_rows(uri)
    paths = [directory / f"{number:05d}" for number in range(len(objects))]
    return [
        DataFile(item.uri, path, _download(store, item.uri, path)) for item, path in zip(objects, paths, strict=True)
    ]


def _download(store: Store, uri: str, path: Path) -> str:
    digest = hashlib.sha256()
    with store.open(uri) as source, path.open("wb") as target:
        while chunk := source.read(CHUNK_BYTES):
            digest.update(chunk)
            target.write(chunk)
    return digest.hexdigest()


def no_rows(uri: str) -> BadInput:
    """The error of a source without rows."""
    return BadInput(
        reasons.DATASET_EMPTY, f"{uri} has no rows", "Upload rows there, for example one JSON object per line."
    )
