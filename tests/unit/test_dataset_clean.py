"""What is kept of the rows, what is held out, and how rows of tokens lie on disk."""

import gzip
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneyard_trainer.data.clean import DUPLICATE, content_key, held_out, spool
from tuneyard_trainer.data.shards import IGNORED, ShardWriter, TokenizedRow, read_rows
from tuneyard_trainer.data.source import DataFile, SourceRow, read_json_lines
from tuneyard_trainer.runtime.errors import BadInput

KEYS = [bytes([number]) * 16 for number in range(100)]
URI = "s3://data/x.jsonl"


def row(text: str, line: int = 1) -> SourceRow:
    return SourceRow([{"role": "user", "content": "Why?"}, {"role": "assistant", "content": text}], URI, line)


def test_of_equal_rows_the_first_is_kept(tmp_path: Path) -> None:
    dropped: Counter[str] = Counter()
    given_rows = [row("a", 1), row("b", 2), row("a", 3), row("a ", 4)]
    spooled = spool(given_rows, tmp_path / "clean", dropped, keep_duplicates=False)
    assert [each.line for each in spooled.rows()] == [1, 2, 4]
    assert dropped == {DUPLICATE: 1}
    assert [content_key(each.messages) for each in spooled.rows()] == spooled.keys


def test_duplicates_are_kept_on_request(tmp_path: Path) -> None:
    dropped: Counter[str] = Counter()
    spooled = spool([row("a", 1), row("a", 2)], tmp_path / "clean", dropped, keep_duplicates=True)
    assert len(list(spooled.rows())) == len(spooled.keys) == 2
    assert not dropped


def test_the_key_does_not_depend_on_the_order_of_fields() -> None:
    turned = [{"content": "Why?", "role": "user"}, {"content": "a", "role": "assistant"}]
    assert content_key(turned) == content_key(row("a").messages)


@pytest.mark.parametrize(("fraction", "count"), [(0.05, 5), (0.5, 50), (0.001, 1)])
def test_a_share_is_held_out(fraction: float, count: int) -> None:
    assert len(held_out(KEYS, fraction, 42)) == count


def test_what_is_held_out_depends_on_content_and_seed_only() -> None:
    chosen = held_out(KEYS, 0.1, 42)
    assert held_out(reversed(KEYS), 0.1, 42) == chosen
    assert held_out([*KEYS, *KEYS], 0.1, 42) == chosen, "a duplicate counts once"
    assert held_out(KEYS, 0.1, 43) != chosen


row_of_tokens = st.lists(st.integers(0, 2**31 - 1)).map(lambda ids: TokenizedRow(ids, [IGNORED, *ids][: len(ids)]))


@given(st.lists(row_of_tokens))
def test_rows_come_back_from_disk(tmp_path_factory: pytest.TempPathFactory, rows: list[TokenizedRow]) -> None:
    directory = tmp_path_factory.mktemp("rows")
    writer = ShardWriter()
    for each in rows:
        writer.add(each)
    writer.write(directory)
    read = read_rows(directory)
    assert len(read) == len(writer) == len(rows)
    assert list(read) == rows == read[:]
    assert read[::-2] == rows[::-2]
    with pytest.raises(IndexError):
        read[len(rows)]
    if rows:
        assert read[-1] == rows[-1]


def json_lines(tmp_path: Path, content: bytes, name: str = "x") -> list[tuple[int, dict[str, object]]]:
    path = tmp_path / name
    path.write_bytes(content)
    return list(read_json_lines(DataFile(URI, path, "")))


def test_lines_are_counted_as_an_editor_does(tmp_path: Path) -> None:
    assert json_lines(tmp_path, b'\xef\xbb\xbf{"a": 1}\r\n\n  \n{"b": "\xc3\xa4"}') == [(1, {"a": 1}), (4, {"b": "ä"})]
    assert json_lines(tmp_path, gzip.compress(b'{"a": 1}\n{"a": 2}\n'), "x.gz") == [(1, {"a": 1}), (2, {"a": 2})]


@pytest.mark.parametrize(
    ("content", "reason", "says"),
    [
        (b'{"a": 1}\n{"a" 1}\n', "InvalidJSON", f"{URI}, line 2, column 6"),
        (b'{"a": 1} {"b": 2}\n', "InvalidJSON", "line 1, column 10"),
        (b'{"a": "\xff"}\n', "InvalidJSON", "line 1, byte 8"),
        (b"[" * 200_000, "InvalidJSON", "nested too deeply"),
        (b"[1]\n", "InvalidRow", "line 1: list"),
        (b"null\n", "InvalidRow", "line 1: NoneType"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, content: bytes, reason: str, says: str) -> None:
    with pytest.raises(BadInput) as raised:
        json_lines(tmp_path, content)
    assert raised.value.reason == reason
    assert says in raised.value.message


def test_what_is_not_gzip_is_named(tmp_path: Path) -> None:
    for content in (b'{"a": 1}\n', gzip.compress(b'{"a": 1}\n' * 100)[:-9]):
        with pytest.raises(BadInput, match="gzip"):
            json_lines(tmp_path, content, "x.gz")
