"""Tokenized rows on disk: named columns, of equal or of different lengths."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneyard_trainer.data.columns import IGNORED, INPUT_IDS, LABELS, TokenizedRow, as_array, length, supervised
from tuneyard_trainer.data.shards import ShardWriter, read_rows

ids = st.lists(st.integers(0, 2**31 - 1))
chats = st.lists(ids.map(lambda ids: {INPUT_IDS: ids, LABELS: [IGNORED, *ids][: len(ids)]}))
preferences = st.lists(st.fixed_dictionaries({"chosen_ids": ids, "rejected_ids": ids, "prompt_ids": ids}))


def write(directory: Path, rows: list[TokenizedRow]) -> Path:
    writer = ShardWriter(directory)
    for row in rows:
        writer.add(row)
    assert len(writer) == len(rows)
    writer.finish()
    return directory


@given(st.one_of(chats, preferences))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, rows: list[TokenizedRow]) -> None:
    read = read_rows(write(tmp_path_factory.mktemp("rows"), rows))
    assert len(read) == len(rows)
    assert list(read) == rows == read[:]
    assert read[::-2] == rows[::-2]
    assert read.lengths == [length(row) for row in rows]
    with pytest.raises(IndexError):
        read[len(rows)]
    if rows:
        assert read[-1] == rows[-1]
        assert read.columns == rows[0].keys()


LIKE_IGNORED = [IGNORED, 0x7FFFFF9C, 0x7F9CFFFF, 0x9CFFFF, 0x9CFF, 0x9C, 2**31 - 1]


@given(st.lists(st.sampled_from(LIKE_IGNORED) | st.integers(0, 2**31 - 1)))
def test_trained_tokens_of_arrays_and_of_lists(labels: list[int]) -> None:
    trained = sum(label != IGNORED for label in labels[1:])
    assert supervised({LABELS: as_array(labels)}) == supervised({LABELS: labels}) == trained


def test_files_of_chats(tmp_path: Path) -> None:
    write(tmp_path, [{INPUT_IDS: [5, 6], LABELS: [IGNORED, 6]}, {INPUT_IDS: [7], LABELS: [7]}])
    arrays = {path.name: np.load(path) for path in tmp_path.iterdir()}
    assert {name: array.tolist() for name, array in arrays.items()} == {
        "input_ids.npy": [5, 6, 7],
        "labels.npy": [IGNORED, 6, 7],
        "offsets.npy": [0, 2, 3],
    }
    assert {str(array.dtype) for array in arrays.values()} == {"int32", "int64"}


def test_files_of_other_lengths(tmp_path: Path) -> None:
    write(tmp_path, [{"chosen": [1, 2], "rejected": [3]}])
    assert {path.name for path in tmp_path.iterdir()} == {
        "chosen.npy", "rejected.npy", "offsets.npy", "rejected.offsets.npy"
    }  # fmt: skip


def test_files_are_those_of_numpy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Byte for byte, although the values are not in memory at once."""
    monkeypatch.setattr("tuneyard_trainer.data.shards.PENDING", 10)
    rows = [{INPUT_IDS: list(range(number)), LABELS: [IGNORED] * number} for number in range(40)]
    write(tmp_path / "rows", rows)
    np.save(tmp_path / "expected.npy", np.concatenate([np.asarray(row[INPUT_IDS], dtype=np.int32) for row in rows]))
    assert (tmp_path / "rows" / "input_ids.npy").read_bytes() == (tmp_path / "expected.npy").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"rows", "expected.npy"}


def test_other_columns(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path)
    writer.add({INPUT_IDS: [1], LABELS: [1]})
    with pytest.raises(ValueError, match="chosen"):
        writer.add({"chosen": [1]})
