"""Data files: JSON Lines, compression, and messages that name the line."""

import gzip
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tuneyard_trainer.data.readers import endings, read_rows
from tuneyard_trainer.data.readers.row import BrokenRow, Row
from tuneyard_trainer.runtime.errors import BadInput

URI = "s3://data/x.jsonl"


def read(tmp_path: Path, content: bytes, uri: str = URI) -> list[tuple[int, Any]]:
    path = tmp_path / "file"
    path.write_bytes(content)
    return [(row.place.number, getattr(row, "fields", None)) for row in checked([*read_rows(path, uri)])]


def checked(rows: Iterable[Row | BrokenRow]) -> Iterator[Row | BrokenRow]:
    """The rows, up to the first that is broken, which is raised."""
    for row in rows:
        if isinstance(row, BrokenRow):
            raise row.error.at(row.place)
        yield row


def test_line_numbers(tmp_path: Path) -> None:
    assert read(tmp_path, b'\xef\xbb\xbf{"a": 1}\r\n\n  \n{"b": "\xc3\xa4"}') == [(1, {"a": 1}), (4, {"b": "ä"})]


@pytest.mark.parametrize("name", ["x.jsonl.gz", "x.ndjson.gz", "x.gz"])
def test_gzip(tmp_path: Path, name: str) -> None:
    content = gzip.compress(b'{"a": 1}\n{"a": 2}\n')
    assert read(tmp_path, content, f"s3://data/{name}") == [(1, {"a": 1}), (2, {"a": 2})]


@pytest.mark.parametrize("name", ["x.ndjson", "x.json", "x", ".jsonl", "folder.gz/x"])
def test_json_lines_by_default(tmp_path: Path, name: str) -> None:
    assert read(tmp_path, b'{"a": 1}\n', f"s3://data/{name}") == [(1, {"a": 1})]


def test_endings() -> None:
    assert endings()[:6] == (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
    assert endings()[6:] == tuple(name + packed for packed in (".gz", ".zst") for name in endings()[:6])


@pytest.mark.parametrize(
    ("content", "reason", "expected"),
    [
        (b'{"a": 1}\n{"a" 1}\n', "InvalidJSON", f"{URI}, line 2, column 6"),
        (b'{"a": 1} {"b": 2}\n', "InvalidJSON", "line 1, column 10"),
        (b'{"a": "\xff"}\n', "InvalidJSON", "line 1, byte 8"),
        (b"[" * 200_000, "InvalidJSON", "nested too deeply"),
        (b"[1]\n", "InvalidRow", "line 1: int"),
        (b"null\n", "InvalidRow", "line 1: NoneType"),
    ],
)
def test_invalid_line(tmp_path: Path, content: bytes, reason: str, expected: str) -> None:
    with pytest.raises(BadInput) as raised:
        read(tmp_path, content)
    assert raised.value.reason == reason
    assert expected in raised.value.message


@pytest.mark.parametrize(("compressed", "line"), [(False, 0), (True, 100)])
def test_damaged_gzip(tmp_path: Path, compressed: bool, line: int) -> None:
    lines = b'{"a": 1}\n' * 100
    content = gzip.compress(lines)[:-9] if compressed else lines
    with pytest.raises(BadInput, match=f"after line {line}: not a whole gzip file") as raised:
        read(tmp_path, content, "s3://data/x.jsonl.gz")
    assert raised.value.advice == "Compress it with gzip again, or upload it uncompressed."
