"""A data reader, a compression, a data format, a cleaning step and a kind of example: one module and one line each."""

import csv
import io
import lzma
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import IO, Any, NamedTuple

import pytest

from support.datafiles import read_source
from support.tinymodel import TEMPLATE, byte_tokenizer, write_model
from tuneyard_api.kinds.dataset import Cleaning, DataSource
from tuneyard_api.registry import DATA_FORMATS, DataFormat
from tuneyard_store.store import ObjectInfo
from tuneyard_trainer.data import formats
from tuneyard_trainer.data.cleaning import ROW_STEPS, TOKEN_STEPS
from tuneyard_trainer.data.cleaning.step import CleaningContext, apply_steps
from tuneyard_trainer.data.columns import INPUT_IDS, LABELS
from tuneyard_trainer.data.compression import COMPRESSIONS
from tuneyard_trainer.data.dropped import DroppedRows
from tuneyard_trainer.data.examples import Chat, Message, Text, content, content_key
from tuneyard_trainer.data.files import DataFile, find_objects
from tuneyard_trainer.data.readers import READERS
from tuneyard_trainer.data.readers.row import Place, Row
from tuneyard_trainer.data.source import SourceRow
from tuneyard_trainer.data.template import ChatTemplate
from tuneyard_trainer.data.tokenize import TOKENIZERS, ExampleTokenizer
from tuneyard_trainer.data.tokenize.tokenizer import ModelTokenizer
from tuneyard_trainer.data.tokenize.tokens import TokenizeContext, Tokens
from tuneyard_trainer.runtime.errors import BadInput

PLACE = Place("s3://data/rows.jsonl", 1)
EXPECTED = Chat((Message("user", "Why?"), Message("assistant", "So.")))


def psv_reader() -> ModuleType:
    def read(stream: IO[bytes], uri: str) -> Iterator[Row]:
        with io.TextIOWrapper(stream, "utf-8", newline="") as text:
            for number, fields in enumerate(csv.DictReader(text, delimiter="|"), start=1):
                yield Row(fields, Place(uri, number, "row"))

    return module("psv_reader", read=read)


def turns_format() -> ModuleType:
    roles = {"human": "user", "gpt": "assistant"}

    def matches(fields: Mapping[str, Any]) -> bool:
        return "turns" in fields

    def read(fields: Mapping[str, Any]) -> Chat:
        return Chat(tuple(Message(roles[turn["from"]], turn["value"]) for turn in fields["turns"]))

    return module("turns", matches=matches, read=read, SHAPE='{"turns"}')


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


def data_file(tmp_path: Path, name: str, content: str | bytes) -> DataFile:
    path = tmp_path / "file"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return DataFile(f"s3://data/{name}", path, "")


def source(**given: Any) -> DataSource:
    return DataSource.model_validate({"uri": "s3://data"} | given)


def test_add_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(READERS, ".psv", psv_reader())
    listing: Any = Listing("s3://data/rows.psv", "s3://data/rows.psv.gz", "s3://data/README.md")
    assert [item.uri for item in find_objects(listing, "s3://data")] == ["s3://data/rows.psv", "s3://data/rows.psv.gz"]
    file = data_file(tmp_path, "rows.psv", "prompt|completion\nWhy?|So.\n")
    (row,) = read_source(source(), [file])
    assert (row.example, str(row.where)) == (EXPECTED, "s3://data/rows.psv, row 1")


def test_errors_of_a_reader_name_its_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(READERS, ".psv", psv_reader())
    file = data_file(tmp_path, "rows.psv", "prompt|completion\nWhy?|So.\nWhy?|\n")
    with pytest.raises(BadInput, match=r"rows\.psv, row 2: the field completion is missing"):
        list(read_source(source(), [file]))


def test_add_compression(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    xz = module("xz", NAME="xz", ERRORS=(lzma.LZMAError, EOFError), open_file=lzma.open)
    monkeypatch.setitem(COMPRESSIONS, ".xz", xz)
    whole = lzma.compress(b'{"prompt": "Why?", "completion": "So."}\n')
    file = data_file(tmp_path, "rows.jsonl.xz", whole)
    assert [row.example for row in read_source(source(), [file])] == [EXPECTED]
    file.path.write_bytes(whole[:-9])
    with pytest.raises(BadInput, match="not a whole xz file"):
        list(read_source(source(), [file]))


@pytest.mark.parametrize("name", ["auto", "two-turns"])
def test_add_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(DATA_FORMATS, "two-turns", DataFormat("turns"))
    monkeypatch.setitem(sys.modules, f"{formats.__name__}.two_turns", turns_format())
    line = '{"turns": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]}\n'
    (row,) = read_source(source(format=name), [data_file(tmp_path, "rows.jsonl", line)])
    assert (row.example, str(row.where)) == (EXPECTED, "s3://data/rows.jsonl, line 1")


def test_each_name_has_a_module() -> None:
    for name in DATA_FORMATS:
        form = formats.load_format(name)
        assert callable(form.matches)
        assert callable(form.read)
        assert form.SHAPE


def test_add_cleaning_step() -> None:
    def apply(rows: Iterable[SourceRow], context: CleaningContext) -> Iterator[SourceRow]:
        for row in rows:
            if "secret" in str(content(row.example)):
                context.drop(row, "secret")
            else:
                yield row

    step: Any = module("no_secrets", apply=apply)
    texts = ("one", "a secret", "two")
    rows = [SourceRow(Text(text), PLACE, "train", content_key(Text(text))) for text in texts]
    context = CleaningContext(Cleaning(), max_length=10, dropped=DroppedRows())
    kept = [row.example for row in apply_steps((*ROW_STEPS, step), rows, context)]
    assert kept == [Text("one"), Text("two")]
    assert context.dropped.counts == {"secret": 1}


def test_add_kind_of_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Rendered(NamedTuple):
        texts: tuple[str]

    def render(text: Text, context: TokenizeContext) -> Rendered:
        return Rendered((text.text,))

    def label(rendered: Rendered, encodings: Sequence[Any], context: TokenizeContext) -> Tokens:
        return Tokens({INPUT_IDS: encodings[0].ids, LABELS: encodings[0].ids})

    kind: Any = module("plain_text", render=render, label=label)
    monkeypatch.setitem(TOKENIZERS, Text, kind)
    model = write_model(tmp_path / "model")
    tokenizer = ExampleTokenizer(ChatTemplate(TEMPLATE, {}), ModelTokenizer(model, "s3://models/tiny"), "the template")
    row = SourceRow(Text("abc"), PLACE, "train", b"")
    cleaning = CleaningContext(Cleaning(), 10, DroppedRows())
    (tokenized,) = apply_steps(TOKEN_STEPS, tokenizer.tokenize([row]), cleaning)
    assert byte_tokenizer().decode(tokenized.tokens[LABELS]) == "abc"
