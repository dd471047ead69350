"""A data reader and a data format are one module and one line in a registry each."""

import csv
import io
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import IO, Any

import pytest

from tuneyard_api.kinds.finetunejob import DataSource
from tuneyard_api.registry import DATA_FORMATS, DataFormat
from tuneyard_store.store import ObjectInfo
from tuneyard_trainer.data import formats
from tuneyard_trainer.data.examples import Chat, Message
from tuneyard_trainer.data.readers import READERS
from tuneyard_trainer.data.readers.row import Row
from tuneyard_trainer.data.source import DataFile, find_objects, read_source
from tuneyard_trainer.runtime.errors import BadInput

EXPECTED = Chat((Message("user", "Why?"), Message("assistant", "So.")))


def csv_reader() -> ModuleType:
    def read(stream: IO[bytes], uri: str) -> Iterator[Row]:
        with io.TextIOWrapper(stream, "utf-8", newline="") as text:
            for number, fields in enumerate(csv.DictReader(text), start=1):
                yield Row(fields, uri, number, "row")

    return module("csv_reader", read=read)


def sharegpt_format() -> ModuleType:
    roles = {"human": "user", "gpt": "assistant"}

    def matches(fields: Mapping[str, Any]) -> bool:
        return "conversations" in fields

    def read(fields: Mapping[str, Any]) -> Chat:
        return Chat(tuple(Message(roles[turn["from"]], turn["value"]) for turn in fields["conversations"]))

    return module("sharegpt", matches=matches, read=read, SHAPE='{"conversations"}')


def module(name: str, **members: object) -> ModuleType:
    made = ModuleType(name)
    vars(made).update(members)
    return made


class Listing:
    """A store with some objects, of which only the listing is asked for."""

    def __init__(self, *uris: str) -> None:
        self.uris = uris

    def list(self, uri: str) -> Iterator[ObjectInfo]:
        return (ObjectInfo(item, item, 1, "") for item in self.uris if item.startswith(uri))


def data_file(tmp_path: Path, name: str, content: str) -> DataFile:
    path = tmp_path / "file"
    path.write_text(content)
    return DataFile(f"s3://data/{name}", path, "")


def source(**given: Any) -> DataSource:
    return DataSource.model_validate({"uri": "s3://data"} | given)


def test_add_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(READERS, ".csv", csv_reader())
    listing: Any = Listing("s3://data/rows.csv", "s3://data/rows.csv.gz", "s3://data/README.md")
    assert [item.uri for item in find_objects(listing, "s3://data")] == ["s3://data/rows.csv", "s3://data/rows.csv.gz"]
    file = data_file(tmp_path, "rows.csv", "prompt,completion\nWhy?,So.\n")
    (row,) = read_source(source(), [file])
    assert (row.example, row.where) == (EXPECTED, "s3://data/rows.csv, row 1")


def test_errors_of_a_reader_name_its_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(READERS, ".csv", csv_reader())
    file = data_file(tmp_path, "rows.csv", "prompt,completion\nWhy?,So.\nWhy?,\n")
    with pytest.raises(BadInput, match=r"rows\.csv, row 2: the field completion is missing"):
        list(read_source(source(), [file]))


@pytest.mark.parametrize("name", ["auto", "share-gpt"])
def test_add_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(DATA_FORMATS, "share-gpt", DataFormat("conversations"))
    monkeypatch.setitem(sys.modules, f"{formats.__name__}.share_gpt", sharegpt_format())
    line = '{"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]}\n'
    (row,) = read_source(source(format=name), [data_file(tmp_path, "rows.jsonl", line)])
    assert (row.example, row.where) == (EXPECTED, "s3://data/rows.jsonl, line 1")


def test_each_name_has_a_module() -> None:
    for name in DATA_FORMATS:
        form = formats.load_format(name)
        assert callable(form.matches)
        assert callable(form.read)
        assert form.SHAPE
