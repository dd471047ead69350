"""Files and rows that are wrong in many ways: each is read whole, or refused by name, file and line."""

import gzip
import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import NamedTuple

import pyarrow
import pytest
from backports import zstd
from pyarrow import parquet

from support.datafiles import ALL_BAD_IS_FINE, Json, lines, read
from tuneyard_trainer.data.readers import values
from tuneyard_trainer.runtime.errors import BadInput

ROW: Json = {"question": "Why?", "answer": "So."}
GOOD = lines(ROW)
CHAT: Json = {"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]}
KOREAN = '{"question": "창고는 어디에 있나요?", "answer": "북쪽에 있습니다."}\n'
CSV = b"question,answer\r\n"


def zipped(name: str) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr(name, GOOD)
    return target.getvalue()


def tarred() -> bytes:
    target, info = io.BytesIO(), tarfile.TarInfo("rows.jsonl")
    info.size = len(GOOD)
    with tarfile.open(fileobj=target, mode="w") as archive:
        archive.addfile(info, io.BytesIO(GOOD))
    return target.getvalue()


def as_parquet(*rows: Json) -> bytes:
    target = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(list(rows)), target, row_group_size=1)
    return target.getvalue()


class Refused(NamedTuple):
    content: bytes
    reason: str
    words: str
    """A part of the message and the advice."""
    name: str = "x.jsonl"


REFUSED: dict[str, Refused] = {
    # Bytes that are no UTF-8.
    "broken UTF-8": Refused(GOOD + b'{"question": "\xff"}\n', "InvalidJSON", "x.jsonl, line 2, byte 15: not UTF-8"),
    "cut UTF-8": Refused(GOOD + '{"question": "창'.encode()[:-1], "InvalidJSON", "line 2, byte 15: not UTF-8"),
    "CP949": Refused(KOREAN.encode("cp949"), "InvalidJSON", "line 1, byte 17: not UTF-8 (it may be CP949)"),
    "Latin-1": Refused('{"question": "Größe?"}'.encode("latin-1"), "InvalidJSON", "line 1, byte 17: not UTF-8"),
    "UTF-16": Refused(KOREAN.encode("utf-16"), "InvalidFile", "x.jsonl is UTF-16"),
    "UTF-16 without a mark": Refused(GOOD.decode().encode("utf-16-le"), "InvalidFile", "x.jsonl is UTF-16"),
    "UTF-32": Refused(KOREAN.encode("utf-32"), "InvalidFile", "x.jsonl is UTF-16"),
    "CP949 in a table": Refused(CSV + "왜?,그래서\n".encode("cp949"), "InvalidJSON", "x.csv, line 2, byte 1", "x.csv"),
    "UTF-16 in a table": Refused(CSV.decode().encode("utf-16"), "InvalidFile", "x.csv is UTF-16", "x.csv"),
    "broken UTF-8 in an array": Refused(
        b'[\n{"question": "\xff"}]', "InvalidJSON", "x.json, line 2, byte 15", "x.json"
    ),
    # Lines that are no rows.
    "no JSON": Refused(GOOD + b"{question}\n", "InvalidJSON", "line 2, column 2: not JSON: Expecting property name"),
    "a cut line": Refused(
        GOOD + b'{"question": "Wh', "InvalidJSON", "line 2, column 14: not JSON: Unterminated string"
    ),
    "two rows in a line": Refused(b'{"a": 1} {"b": 2}\n', "InvalidJSON", "line 1, column 10: not JSON: Extra data"),
    "Python's repr": Refused(b"{'question': 'Why?'}\n", "InvalidJSON", "write the rows with json.dumps"),
    "commas between lines": Refused(b'{"a": 1},\n{"a": 2}\n', "InvalidJSON", "have no comma between them"),
    "an invalid escape": Refused(rb'{"question": "C:\Users"}', "InvalidJSON", "line 1, column 17: not JSON: Invalid"),
    "a control character": Refused(b'{"question": "a\x01"}', "InvalidJSON", "not JSON: Invalid control character"),
    "a list": Refused(b'["question", "answer"]\n', "InvalidRow", "line 1: str instead of an object"),
    "null": Refused(b"null\n", "InvalidRow", "line 1: NoneType instead of an object"),
    "a string": Refused(b'"Why?"\n', "InvalidRow", "line 1: str instead of an object"),
    "a number of 5,000 digits": Refused(b'{"a": ' + b"1" * 5000 + b"}", "InvalidJSON", "line 1: a number has too many"),
    "deep nesting": Refused(b'{"a": ' * 100_000, "InvalidJSON", "line 1: nested too deeply"),
    "deep arrays": Refused(b"[" * 200_000, "InvalidJSON", "line 1, column 2: nested too deeply"),
    "a name twice": Refused(
        b'{"answer": "a", "answer": "b"}', "InvalidRow", "line 1: the field answer stands there tw"
    ),
    "a name twice within": Refused(
        b'{"messages": [{"role": "user", "role": "system"}]}', "InvalidRow", "the field role stands there twice"
    ),
    "a name twice in an array": Refused(b'[{"a": 1,\n"a": 2}]', "InvalidRow", "line 1: the field a stands", "x.json"),
    # Fields.
    "half a character": Refused(
        b'{"question": "\\ud800", "answer": "So."}', "InvalidRow", "question holds half a char"
    ),
    "half a character in a name": Refused(
        b'{"\\ud800": 1}', "InvalidRow", r"line 1: the fields \ud800 are of no known"
    ),
    "NaN": Refused(b'{"question": NaN, "answer": "So."}', "InvalidRow", "the field question is float"),
    "Infinity": Refused(b'{"question": "Why?", "answer": Infinity}', "InvalidRow", "cannot be written as JSON"),
    "nested nulls": Refused(b'{"messages": [null]}', "InvalidRow", "line 1: message 1 is not an object"),
    "null content": Refused(
        lines({"messages": [{"role": "user", "content": None}]}), "InvalidRow", "message 1: it has"
    ),
    "null everywhere": Refused(
        b'{"question": null, "answer": null}', "InvalidRow", "the fields (none) are of no known"
    ),
    "a number beyond all": Refused(b'{"question": "Why?", "answer": 1e400}', "InvalidRow", "cannot be written as JSON"),
    "half a character deep inside": Refused(
        b'{"question": "Why?", "answer": {"a": ["\\ud800"]}}', "InvalidRow", "cannot be written as JSON"
    ),
    "a tool call that is null": Refused(
        lines({"messages": [{"role": "assistant", "content": None, "tool_calls": [None]}]}),
        "InvalidRow",
        "message 1: a tool call has no function",
    ),
    "a weight that is no number": Refused(
        lines({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": "0"}]}),
        "InvalidRow",
        "message 2: the weight is '0'",
    ),
    "content in lists of lists": Refused(
        lines({"messages": [{"role": "user", "content": [[["a"]]]}]}), "InvalidRow", "field content is list, not text"
    ),
    "half a pair of history": Refused(
        lines({"instruction": "a", "output": "b", "history": [["x"]]}), "InvalidRow", "entry 1 of history is no pair"
    ),
    "deep nesting in a field": Refused(
        b'{"question": "q", "answer": ' + b"[" * 5000 + b"]" * 5000 + b"}", "InvalidJSON", "line 1: nested too deeply"
    ),
    "two marks of UTF-8": Refused(b"\xef\xbb\xbf" * 2 + GOOD, "InvalidJSON", "line 1, column 1: not JSON"),
    "half a character in UTF-8": Refused(b'{"question": "\xed\xa0\x80"}', "InvalidJSON", "line 1, byte 15: not UTF-8"),
    "an overlong character": Refused(b'{"question": "\xc0\x80"}', "InvalidJSON", "line 1, byte 15: not UTF-8"),
    "lines that end with CR": Refused(GOOD.replace(b"\n", b"\r") * 2, "InvalidJSON", "line 1, column 3"),
    "an empty object": Refused(b"{}\n", "InvalidRow", "the fields (none) are of no known format"),
    "no answer": Refused(b'{"question": "Why?", "answer": " \\n"}', "MissingAnswer", "line 1: the field answer is"),
    "no question": Refused(b'{"question": "", "answer": "So."}', "InvalidRow", "line 1: the field question is missing"),
    "an unknown role": Refused(
        lines({"messages": [{"role": "bot", "content": "x"}]}), "InvalidRow", "message 1: the role is 'bot'"
    ),
    "a role that is a number": Refused(lines({"messages": [{"role": 7}]}), "InvalidRow", "message 1: the role is 7"),
    "a chat that is text": Refused(lines({"messages": "Why? So."}), "InvalidRow", "the field messages is no list"),
    "no messages": Refused(lines({"messages": []}), "InvalidRow", "the field messages is not a list with messages"),
    "text": Refused(lines({"text": " "}), "MissingAnswer", "the field text is missing or empty"),
    "a hundred fields": Refused(lines({f"x{n:03}": 1 for n in range(100)}), "InvalidRow", "x019 and 80 more are of no"),
    # Files that are something else.
    "a page": Refused(b"\n<!DOCTYPE html>\n<html>Log in", "InvalidFile", "x.jsonl is a web page"),
    "an XML error": Refused(b'<?xml version="1.0"?><Error><Code>AccessDenied', "InvalidFile", "is an XML document"),
    "a pointer": Refused(b"version https://git-lfs.github.com/spec/v1\noid", "InvalidFile", "a pointer of Git LFS"),
    "gzip": Refused(gzip.compress(GOOD), "InvalidFile", "is compressed with gzip. Give its name the ending .gz"),
    "zstd": Refused(zstd.compress(GOOD), "InvalidFile", "is compressed with zstd. Give its name the ending .zst"),
    "a ZIP archive": Refused(zipped("rows.jsonl"), "InvalidFile", "is a ZIP archive"),
    "a ZIP archive with a path that leads out": Refused(zipped("../../etc/passwd"), "InvalidFile", "is a ZIP archive"),
    "a tar archive": Refused(
        gzip.compress(tarred()),
        "InvalidFile",
        "is a tar archive",
        "x.jsonl.gz",
    ),
    "Parquet in a .jsonl file": Refused(as_parquet(ROW), "InvalidFile", "is a Parquet file"),
    "JSON in a .parquet file": Refused(GOOD, "InvalidFile", "is JSON, not Parquet", "x.parquet"),
    "JSON in a .csv file": Refused(GOOD, "InvalidFile", "is JSON, not CSV", "x.csv"),
    "a table in a .jsonl file": Refused(CSV + b"Why?,So.\r\n", "InvalidFile", "looks like a table, not JSON"),
    "a table in a .parquet file": Refused(CSV, "InvalidFile", "is not a Parquet file", "x.parquet"),
    "Excel": Refused(b"\xd0\xcf\x11\xe0\xa1\xb1", "InvalidFile", "is an old Excel", "x.csv"),
    "PDF": Refused(b"%PDF-1.7\n", "InvalidFile", "is a PDF document"),
    "an image": Refused(b"\x89PNG\r\n", "InvalidFile", "is an image"),
    "a pickle": Refused(b"\x80\x04\x95\x10", "InvalidFile", "is a Python pickle"),
    "Arrow": Refused(b"ARROW1\0\0", "InvalidFile", "is an Arrow (Feather) file"),
    "SQLite": Refused(b"SQLite format 3\0", "InvalidFile", "is an SQLite database"),
    "binary": Refused(b"\x01\x02\x00\x03\x04" * 20, "InvalidFile", "is a binary file"),
    # Damaged files.
    "cut gzip": Refused(gzip.compress(GOOD * 9)[:-9], "InvalidJSON", "not a whole gzip file", "x.jsonl.gz"),
    "no gzip": Refused(GOOD, "InvalidJSON", "after line 0: not a whole gzip file", "x.jsonl.gz"),
    "cut zstd": Refused(zstd.compress(GOOD * 9)[:-5], "InvalidJSON", "not a whole zstd file", "x.jsonl.zst"),
    "a bomb of white space": Refused(
        gzip.compress(b" \n" * 2**20), "InvalidFile", "decompresses to more", "x.jsonl.gz"
    ),
    "a bomb of rows": Refused(
        zstd.compress(GOOD * 2**16), "InvalidFile", "to more than 1 MiB, 200 times", "x.jsonl.zst"
    ),
    "something after gzip": Refused(gzip.compress(GOOD) + b"more", "InvalidJSON", "after line 1: not a", "x.jsonl.gz"),
    "a wrong checksum": Refused(gzip.compress(GOOD)[:-8] + bytes(8), "InvalidJSON", "CRC check failed", "x.jsonl.gz"),
    "gzip in gzip": Refused(gzip.compress(gzip.compress(GOOD)), "InvalidFile", "compressed with gzip", "x.jsonl.gz"),
    "nothing but NUL": Refused(bytes(100), "InvalidFile", "has nothing but NUL bytes"),
    "no zstd": Refused(GOOD, "InvalidJSON", "not a whole zstd file", "x.jsonl.zst"),
    "cut Parquet": Refused(as_parquet(ROW)[:-20], "InvalidFile", "is not a whole Parquet file", "x.parquet"),
    "an array without end": Refused(b'[{"question": "a", "answer": "b"}\n', "InvalidJSON", "has no end", "x.json"),
    "an array without comma": Refused(
        b'[{"question": "a", "answer": "b"}\n{', "InvalidJSON", "x.json, line 2, column 1: the array goes on", "x.json"
    ),
    "something after an array": Refused(b"[{}]\n{}", "InvalidJSON", "line 2, column 1: something follows", "x.json"),
    "a cut object over lines": Refused(b'{\n"question": "Why', "InvalidJSON", "line 2, column 13: not JSON", "x.json"),
    "an open quote": Refused(CSV + b'"Why?,So.\r\nWho?,I.\r\n', "InvalidRow", "x.csv, line 3: not CSV", "x.csv"),
    "a quote within a cell": Refused(CSV + b'"a"b,c\r\n', "InvalidRow", "x.csv, line 2: not CSV", "x.csv"),
    "too many cells": Refused(CSV + b"Why?,So, what.\r\n", "InvalidRow", "x.csv, line 2: it has 3 cells", "x.csv"),
    "too few cells": Refused(CSV + b"Why?\r\n", "InvalidRow", "x.csv, line 2: it has 1 cells", "x.csv"),
    "a column twice": Refused(
        b"answer,answer\r\na,b\r\n", "InvalidRow", "the column answer stands there twice", "x.csv"
    ),
    "50,000 columns": Refused(
        b",".join(b"c%d" % number for number in range(50_000)) + b"\n" + b"," * 49_999,
        "InvalidRow",
        "x.csv, line 2: the fields",
        "x.csv",
    ),
    "a column without name": Refused(b"answer,\r\na,b\r\n", "InvalidRow", "line 1: a column has no name", "x.csv"),
    "an empty cell": Refused(CSV + b"Why?,\r\n", "MissingAnswer", "x.csv, line 2: the field answer is", "x.csv"),
    "blank lines": Refused(b"\n \n", "DatasetEmpty", "has no rows"),
    "an empty array": Refused(b"[ ]", "DatasetEmpty", "has no rows", "x.json"),
    "a header alone": Refused(CSV, "DatasetEmpty", "has no rows", "x.csv"),
    "no rows in Parquet": Refused(CSV + b"\r\n \r\n"[:2], "DatasetEmpty", "has no rows", "x.csv"),
}


@pytest.fixture(autouse=True)
def small_bombs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuneyard_trainer.data.compression.bounded.ALWAYS", 2**20)


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_refused(tmp_path: Path, case: Refused) -> None:
    with pytest.raises(BadInput) as raised:
        read(tmp_path / "x", case.content, case.name)
    text = str(raised.value)
    assert (raised.value.reason, case.words in text) == (case.reason, True), text
    assert f"s3://data/{case.name}" in text
    assert raised.value.advice.endswith(".")
    text.encode()


READ: dict[str, tuple[bytes, str]] = {
    "BOM": (b"\xef\xbb\xbf" + GOOD, "x.jsonl"),
    "CRLF": (GOOD.replace(b"\n", b"\r\n"), "x.jsonl"),
    "no line end": (GOOD.rstrip(), "x.jsonl"),
    "another ending": (GOOD, "x.txt"),
    "no ending": (GOOD, "part-00000"),
    "JSON Lines in .json": (GOOD, "x.json"),
    "an array": (json.dumps([ROW]).encode(), "x.json"),
    "an array in .jsonl": (json.dumps([ROW], indent=2).encode(), "x.jsonl"),
    "an array with BOM": (b"\xef\xbb\xbf" + json.dumps([ROW]).encode(), "x.json"),
    "pretty-printed": (json.dumps(ROW, indent=2).encode(), "x.jsonl"),
    "two members of gzip": (gzip.compress(GOOD[:9]) + gzip.compress(GOOD[9:]), "x.jsonl.gz"),
    "two frames of zstd": (zstd.compress(GOOD[:9]) + zstd.compress(GOOD[9:]), "x.jsonl.zst"),
    "an array in zstd": (zstd.compress(json.dumps([ROW]).encode()), "x.json.zst"),
    "CSV": (CSV + b"Why?,So.\r\n", "x.csv"),
    "CSV with BOM": (b"\xef\xbb\xbf" + CSV + b"Why?,So.\n\n", "x.csv"),
    "CSV with semicolons": (b"question;answer\nWhy?;So.\n", "x.csv"),
    "CSV in gzip": (gzip.compress(CSV + b"Why?,So.\n"), "x.csv.gz"),
    "TSV": (b"question\tanswer\nWhy?\tSo.\n", "x.tsv"),
    "CSV with a chat": (
        b'messages\n"' + json.dumps(CHAT["messages"]).replace('"', '""').encode() + b'"\n',
        "x.csv",
    ),
    "Parquet": (as_parquet(ROW), "x.parquet"),
    "Parquet with a chat": (as_parquet(CHAT), "x.parquet"),
    "Parquet in gzip": (gzip.compress(as_parquet(ROW)), "x.parquet.gz"),
    "Parquet in zstd": (zstd.compress(as_parquet(ROW)), "x.parquet.zst"),
}


@pytest.mark.parametrize(("content", "name"), READ.values(), ids=READ)
def test_read(tmp_path: Path, content: bytes, name: str) -> None:
    assert read(tmp_path / "x", content, name)[0] == [CHAT]


def answers(path: Path, content: bytes, name: str) -> list[str]:
    return [example["messages"][1]["content"] for example in read(path, content, name, ALL_BAD_IS_FINE)[0]]


@pytest.mark.parametrize(
    ("content", "name", "expected"),
    [
        (CSV + b'Why?,"one\r\ntwo, ""three"""\r\n', "x.csv", ['one\r\ntwo, "three"']),
        (CSV + b"Why?,=1+1\r\n", "x.csv", ["=1+1"]),
        (lines(ROW | {"answer": "a\0b"}), "x.jsonl", ["a\0b"]),
        (lines(ROW | {"answer": "a\u2028b\x85c"}), "x.jsonl", ["a\u2028b\x85c"]),
        (json.dumps(ROW | {"answer": "a\u2028b\x85c"}, ensure_ascii=False).encode(), "x.jsonl", ["a\u2028b\x85c"]),
        (lines(ROW | {"answer": "x" * 4_000_000}), "x.jsonl", ["x" * 4_000_000]),
        (json.dumps([ROW | {"answer": "x" * 1_000_000}] * 2).encode(), "x.json", ["x" * 1_000_000] * 2),
    ],
)
def test_text_is_kept(tmp_path: Path, content: bytes, name: str, expected: list[str]) -> None:
    assert answers(tmp_path / "x", content, name) == expected


def test_rows_after_a_bad_one_are_read(tmp_path: Path) -> None:
    """In every text format, with the line of the bad one."""
    many = [ROW | {"answer": str(number)} for number in range(12)]
    table = CSV + b"".join(b"Why?,%d\n" % number for number in range(12)) + b"Why?\nWhy?,12\n"
    array = json.dumps([*many, {}, ROW | {"answer": "12"}], indent=0).encode()
    for name, content in (
        ("x.jsonl", lines(*many) + b"{\xff\n" + lines(ROW | {"answer": "12"})),
        ("x.csv", table),
        ("x.json", array),
    ):
        examples, reading = read(tmp_path / "x", content, name)
        assert [example["messages"][1]["content"] for example in examples] == [str(number) for number in range(13)]
        (fault,) = reading.bad.faults()
        assert (fault.rows, fault.place.number) == (1, {"x.jsonl": 13, "x.csv": 14, "x.json": 50}[name])


def test_huge_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row beyond the bound is not read into memory; the next line is read."""
    for module in ("json_lines", "json_values", "delimited"):
        monkeypatch.setattr(f"tuneyard_trainer.data.readers.{module}.ROW_BYTES", 2**20)
    assert values.ROW_BYTES == 64 * 2**20
    huge = lines(ROW | {"answer": "x" * 2**22})
    assert answers(tmp_path / "x", huge + GOOD, "x.jsonl") == ["So."]
    monkeypatch.setattr("tuneyard_trainer.data.compression.bounded.ALWAYS", 2**28)
    bomb = gzip.compress(b"{" + b" " * 2**26)
    with pytest.raises(BadInput, match="line 1: larger than 64 MiB"):
        read(tmp_path / "x", bomb, "x.jsonl.gz")
    with pytest.raises(BadInput, match="line 1: larger than 64 MiB"):
        read(tmp_path / "x", b"[" + huge, "x.json")
    with pytest.raises(BadInput, match="line 2: larger than 64 MiB"):
        read(tmp_path / "x", CSV + b"x" * 2**21, "x.csv")


def test_dropped_rows_can_be_repaired(tmp_path: Path) -> None:
    """Each bad row is written as it was, with its place and its fault."""
    broken = b'{"question": "Why?", "answer": "\xff"}\n'
    half = b'{"question": "\\ud800", "answer": "So."}\n'
    read(tmp_path / "x", GOOD + broken + half, clean=ALL_BAD_IS_FINE)
    first, second = map(json.loads, (tmp_path / "dropped.jsonl").read_text().splitlines())
    assert first == {
        "uri": "s3://data/x.jsonl",
        "line": 2,
        "reason": "invalidJSON",
        "message": "not UTF-8",
        "row": '{"question": "Why?", "answer": "\\xff"}',
    }
    assert second["row"] == json.loads(half)


def test_too_many_bad_rows(tmp_path: Path) -> None:
    """The three commonest faults are told, each with an example."""
    rows = lines(*[ROW] * 20, *[{"question": "Why?"}] * 3, *[{"txt": "x"}] * 2, {}, {"messages": []})
    with pytest.raises(BadInput) as raised:
        read(tmp_path / "x", rows)
    assert raised.value.reason == "MissingAnswer"
    assert raised.value.message == (
        "3 rows such as s3://data/x.jsonl, line 21: the field answer is missing or empty; "
        "2 rows such as s3://data/x.jsonl, line 24: the fields txt are of no known format; "
        "s3://data/x.jsonl, line 26: the fields (none) are of no known format; and 1 other faults. "
        "7 of 27 rows cannot be used; dataset.clean.badRows.maxFraction is 0.1"
    )


def test_few_bad_rows(tmp_path: Path) -> None:
    examples, reading = read(tmp_path / "x", lines(*[ROW] * 9, {}))
    assert (len(examples), reading.bad.count, reading.findings.rows) == (9, 1, 10)


def test_fail_at_the_first_bad_row(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"^s3://data/x\.jsonl, line 10: the fields \(none\) are of no known format"):
        read(tmp_path / "x", lines(*[ROW] * 9, {}, {}), clean={"badRows": {"policy": "fail"}})
