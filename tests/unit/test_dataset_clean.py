"""Cleaning steps, the rows on disk between them and the tokenizer, and the split."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tuneyard_api.kinds.dataset import Cleaning
from tuneyard_trainer.data.cleaning import REPEAT_STEPS, ROW_STEPS, TOKEN_STEPS
from tuneyard_trainer.data.cleaning.step import CleaningContext, apply_steps
from tuneyard_trainer.data.columns import IGNORED, INPUT_IDS, LABELS, as_array, length
from tuneyard_trainer.data.dropped import DroppedRows
from tuneyard_trainer.data.examples import Chat, Message, content_key
from tuneyard_trainer.data.readers.row import Place
from tuneyard_trainer.data.row_keys import RowKeys
from tuneyard_trainer.data.source import SourceRow
from tuneyard_trainer.data.split import Split, held_out
from tuneyard_trainer.data.spool import spool, written
from tuneyard_trainer.data.tokenize import TokenizedExample
from tuneyard_trainer.data.tokenize.tokens import Answer
from tuneyard_trainer.runtime.errors import BadInput

KEYS = [bytes([number]) * 16 for number in range(100)]


def row(answer: str, line: int = 1, split: Split = "train") -> SourceRow:
    example = Chat((Message("user", "Why?"), Message("assistant", answer)))
    return SourceRow(example, Place("s3://data/x.jsonl", line), split, content_key(example))


def context(**settings: Any) -> CleaningContext:
    return CleaningContext(Cleaning.model_validate(settings), max_length=4, dropped=DroppedRows())


def kept(rows: Iterable[SourceRow], cleaning: CleaningContext) -> list[str]:
    """The lines of the rows that are kept."""
    cleaned = written(list(apply_steps(ROW_STEPS, rows, cleaning)))
    return [str(item.where.number) for item in apply_steps(REPEAT_STEPS, cleaned, cleaning)]


def test_exact_duplicates() -> None:
    """Neither case nor white space makes a difference."""
    rows = [row("a b", 1), row("b", 2), row("a b", 3), row(" A  b\n", 4), row("ab", 5)]
    cleaning = context()
    assert kept(rows, cleaning) == ["1", "2", "5"]
    assert cleaning.dropped.counts == {"duplicate": 2}
    assert cleaning.dropped.examples["duplicate"].message == "repeats s3://data/x.jsonl, line 1"


def test_keep_duplicates() -> None:
    cleaning = context(exactDuplicates="keep")
    assert kept([row("a", 1), row("a", 2)], cleaning) == ["1", "2"]
    assert not cleaning.dropped.counts


@pytest.mark.parametrize("duplicates", ["drop", "keep"])
def test_in_validation(duplicates: str) -> None:
    cleaning = context(exactDuplicates=duplicates)
    rows = [row("a", 1, "validation"), row("b", 2, "validation"), row("b", 3), row("c", 4), row("a", 5)]
    assert kept(rows, cleaning) == ["1", "2", "4"]
    assert cleaning.dropped.counts == {"inValidation": 2}


def tokenized(*labels: int) -> TokenizedExample:
    return TokenizedExample(row("a", 7), {INPUT_IDS: as_array(range(len(labels))), LABELS: as_array(labels)})


LONG = tokenized(IGNORED, IGNORED, 1, 2, 3)
LONG_PROMPT = tokenized(IGNORED, IGNORED, IGNORED, IGNORED, 1, 2)
SHORT = tokenized(IGNORED, IGNORED, 1, 2)


@pytest.mark.parametrize(
    ("policy", "lengths", "dropped"),
    [("drop", [4], {"tooLong": 2}), ("truncate", [4, 4], {"nothingToTrain": 1})],
)
def test_too_long(policy: str, lengths: list[int], dropped: dict[str, int]) -> None:
    cleaning = context(maxLength=policy)
    rows = list(apply_steps(TOKEN_STEPS, [SHORT, LONG, LONG_PROMPT], cleaning))
    assert [length(item.tokens) for item in rows] == lengths
    assert cleaning.dropped.counts == dropped


def test_too_long_fails() -> None:
    with pytest.raises(BadInput, match=r"line 7: 5 tokens; training\.maxLength is 4"):
        list(apply_steps(TOKEN_STEPS, [SHORT, LONG], context(maxLength="fail")))


def test_first_token_is_not_trained() -> None:
    cleaning = context()
    assert not list(apply_steps(TOKEN_STEPS, [tokenized(1, IGNORED)], cleaning))
    assert cleaning.dropped.counts == {"nothingToTrain": 1}


def test_spool(tmp_path: Path) -> None:
    rows = [row("a", 1, "validation"), row("b\n🚀", 2), row("a", 3)]
    spooled = spool(written(rows), tmp_path / "clean")
    assert [SourceRow(*each[:4]) for each in spooled.rows()] == rows
    assert len(spooled) == 3
    assert spooled.validation == {rows[0].key}


@pytest.mark.parametrize(("fraction", "count"), [(None, 5), (0.05, 5), (0.5, 50), (0.001, 1)])
def test_held_out_fraction(fraction: float | None, count: int) -> None:
    assert len(held_out(KEYS, fraction, 42)) == count


def test_held_out_depends_on_content_and_seed() -> None:
    chosen = held_out(KEYS, 0.1, 42)
    assert held_out(reversed(KEYS), 0.1, 42) == chosen
    assert held_out([*KEYS, *KEYS], 0.1, 42) == chosen, "a duplicate counts once"
    assert held_out(KEYS, 0.1, 43) != chosen


def test_answers_are_counted() -> None:
    """Those of rows that are dropped for their length are not; those that truncation cuts off are left out."""
    answers = (Answer(0, 0, left_out="notShown"), Answer(1, 3, end_token=9), Answer(3, 6, end_token=9), Answer(6, 8))
    rows = [TokenizedExample(row("a", 7), {INPUT_IDS: as_array([1] * 8), LABELS: as_array([1] * 8)}, answers)]
    cleaning = context(maxLength="truncate")
    assert len(list(apply_steps(TOKEN_STEPS, rows, cleaning))) == 1
    counts = cleaning.answers
    assert (counts.given, counts.trained, counts.cut_short) == (4, 2, 1)
    assert counts.left_out == {"notShown": 1, "truncated": 1}
    assert counts.stop_tokens(5) == [5, 9]
    dropping = context(maxLength="drop")
    assert not list(apply_steps(TOKEN_STEPS, rows, dropping))
    assert dropping.answers.given == 0


def test_keys_of_rows_are_as_a_list_of_them() -> None:
    expected = KEYS[:5]
    keys = RowKeys(expected[:3])
    for key in expected[3:]:
        keys.append(key)
    assert list(keys) == expected
    assert (keys[1:4], keys[-1], len(keys)) == (expected[1:4], expected[-1], 5)
    with pytest.raises(IndexError):
        keys[5]
