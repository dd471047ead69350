"""The files of a source, one object or all below a prefix, and their rows as examples."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from tuneyard_api import reasons
from tuneyard_api.kinds.finetunejob import DataSource
from tuneyard_store.store import ObjectInfo, Store
from tuneyard_trainer.data.examples import Example, Key, RowError, content_key
from tuneyard_trainer.data.formats import detect, load_format, renamed
from tuneyard_trainer.data.readers import endings, read_rows
from tuneyard_trainer.data.split import TRAIN, Split
from tuneyard_trainer.runtime.errors import BadInput

CHUNK_BYTES: Final = 2**20


class DataFile(NamedTuple):
    """One object of a source, downloaded."""

    uri: str
    path: Path
    sha256: str


class SourceRow(NamedTuple):
    """A row of a source, as the example that it stands for."""

    example: Example
    where: str
    """URI and line, for messages."""
    split: Split
    key: Key
    """Equal for rows with the same content."""


def find_objects(store: Store, uri: str) -> list[ObjectInfo]:
    """The object at `uri`, or the data files below it.

    Raises:
        BadInput: there are none.
    """
    found = list(store.list(uri))
    exact = [item for item in found if item.uri == uri]
    if exact:
        return exact
    below = [item for item in found if item.uri.startswith(uri.rstrip("/") + "/") and item.uri.endswith(endings())]
    if not below:
        raise BadInput(
            reasons.DATASET_NOT_FOUND,
            f"There is no data at {uri} in {store.endpoint(uri)}",
            f"Upload it there, or correct the uri: an object, or a prefix with files that end in "
            f"{', '.join(endings())}.",
        )
    return below


def fetch(store: Store, uri: str, directory: Path) -> list[DataFile]:
    """Downloads the files of a source and computes their digests.

    Raises:
        BadInput: there are none, or all are empty.
    """
    directory.mkdir(parents=True, exist_ok=True)
    objects = find_objects(store, uri)
    if not any(item.size for item in objects):
        raise _empty(uri)
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


def read_source(source: DataSource, files: list[DataFile], split: Split = TRAIN) -> Iterator[SourceRow]:
    """The rows of a source, in order. With the format `auto`, the first row tells the format of all.

    Raises:
        BadInput: names the URI and the line of the first row that is wrong; or there are no rows.
    """
    form = None if source.format == "auto" else load_format(source.format)
    empty = True
    for file in files:
        for row in read_rows(file.path, file.uri):
            try:
                fields = renamed(row.fields, source.columns or {})
                form = form or load_format(detect(fields))
                example = form.read(fields)
            except RowError as error:
                raise error.at(row.where) from error
            empty = False
            yield SourceRow(example, row.where, split, content_key(example))
    if empty:
        raise _empty(source.uri)


def _empty(uri: str) -> BadInput:
    return BadInput(reasons.DATASET_EMPTY, f"{uri} has no rows", "Upload rows there: one JSON object per line.")
