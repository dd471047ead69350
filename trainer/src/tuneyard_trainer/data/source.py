"""Where rows come from: JSON Lines in the store (.jsonl, .ndjson, both also .gz), one object or all below a prefix."""

import codecs
import gzip
import hashlib
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn

from tuneyard_api import reasons
from tuneyard_api.kinds.finetunejob import DataSource
from tuneyard_store.store import ObjectInfo, Store
from tuneyard_trainer.data.examples import Messages, RowError
from tuneyard_trainer.data.formats import FORMATS, detect, renamed
from tuneyard_trainer.runtime.errors import BadInput, sentence

ENDINGS: Final = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")
CHUNK_BYTES: Final = 2**20


class DataFile(NamedTuple):
    """One object of a source, downloaded."""

    uri: str
    path: Path
    sha256: str


class SourceRow(NamedTuple):
    messages: Messages
    uri: str
    line: int  # from 1


def find_objects(store: Store, uri: str) -> list[ObjectInfo]:
    """The object at `uri`, or the JSON Lines below it.

    Raises:
        BadInput: there are none.
    """
    found = list(store.list(uri))
    exact = [each for each in found if each.uri == uri]
    if exact:
        return exact
    below = [each for each in found if each.uri.startswith(uri.rstrip("/") + "/") and each.uri.endswith(ENDINGS)]
    if not below:
        raise BadInput(
            reasons.DATASET_NOT_FOUND,
            f"There is no data at {uri} in {store.endpoint(uri)}",
            f"Upload it there, or correct the uri: an object, or a prefix with files that end in {', '.join(ENDINGS)}.",
        )
    return below


def fetch(store: Store, uri: str, directory: Path) -> list[DataFile]:
    """Downloads a source's files and hashes them on the way.

    Raises:
        BadInput: there are none, or none has a byte.
    """
    directory.mkdir(parents=True, exist_ok=True)
    objects = find_objects(store, uri)
    if not any(each.size for each in objects):
        raise _empty(uri)
    files: list[DataFile] = []
    for number, each in enumerate(objects):
        path = directory / f"{number:05d}{'.gz' if each.uri.endswith('.gz') else ''}"
        files.append(DataFile(each.uri, path, _download(store, each.uri, path)))
    return files


def _download(store: Store, uri: str, path: Path) -> str:
    digest = hashlib.sha256()
    with store.open(uri) as source, path.open("wb") as target:
        while chunk := source.read(CHUNK_BYTES):
            digest.update(chunk)
            target.write(chunk)
    return digest.hexdigest()


def read_source(source: DataSource, files: list[DataFile]) -> Iterator[SourceRow]:
    """The rows of a source, in order.

    Raises:
        BadInput: names the uri and the line of the first row that is wrong.
    """
    form: str = source.format
    count = 0
    for file in files:
        for line, row in read_json_lines(file):
            try:
                named = renamed(row, source.columns or {})
                if form == "auto":
                    form = detect(named)
                messages = FORMATS[form].read(named)
            except RowError as error:
                _fail(file, line, error)
            count += 1
            yield SourceRow(messages, file.uri, line)
    if count == 0:
        raise _empty(source.uri)


def _fail(file: DataFile, line: int, error: RowError) -> NoReturn:
    raise BadInput(error.reason, f"{file.uri}, line {line}: {error.message}", sentence(error.advice)) from error


def read_json_lines(file: DataFile) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers, from 1, and rows; blank lines are passed over."""
    opened: Callable[[Path], Any] = gzip.open if file.path.suffix == ".gz" else (lambda path: path.open("rb"))
    line = 0
    try:
        with opened(file.path) as stream:
            for line, text in enumerate(stream, start=1):
                if text.strip():
                    yield line, parse(text.removeprefix(codecs.BOM_UTF8), file.uri, line)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise BadInput(
            reasons.INVALID_JSON,
            f"{file.uri}, after line {line}: not a whole gzip file ({error})",
            "Compress it with gzip again, or upload it uncompressed.",
        ) from error


def parse(text: bytes, uri: str, line: int) -> dict[str, Any]:
    """One line as a JSON object.

    Raises:
        BadInput: it is none; names line and column.
    """
    try:
        row = json.loads(text.decode())
    except UnicodeDecodeError as error:
        where, what = f"line {line}, byte {error.start + 1}", "not UTF-8"
    except json.JSONDecodeError as error:
        where, what = f"line {line}, column {error.colno}", f"not JSON: {error.msg.removesuffix(' at')}"
    except RecursionError:
        where, what = f"line {line}", "nested too deeply"
    else:
        if isinstance(row, dict):
            return row
        raise BadInput(
            reasons.INVALID_ROW,
            f"{uri}, line {line}: {type(row).__name__} instead of an object",
            "Write one JSON object per line, in {...}.",
        )
    raise BadInput(reasons.INVALID_JSON, f"{uri}, {where}: {what}", "Write one JSON object per line, in UTF-8.")


def _empty(uri: str) -> BadInput:
    return BadInput(reasons.DATASET_EMPTY, f"{uri} has no rows", "Upload rows there: one JSON object per line.")
