"""Training rows that are nearly held out leave training, and are counted; no near duplicates are on both sides."""

import random
from pathlib import Path

from tuneyard_api.kinds.dataset import Cleaning
from tuneyard_trainer.data.cleaning import SET_STEPS, SPLIT_STEPS
from tuneyard_trainer.data.cleaning.step import CleaningContext, apply_set_steps
from tuneyard_trainer.data.dropped import DroppedRows
from tuneyard_trainer.data.examples import Chat, Message, content_key
from tuneyard_trainer.data.readers.row import Place
from tuneyard_trainer.data.source import SourceRow
from tuneyard_trainer.data.split import TRAIN, VALIDATION, Split
from tuneyard_trainer.data.spool import Spooled, spool, written

CHANCE = random.Random(4)  # noqa: S311
WORDS = [f"{one}{two}{three}" for one in "bdgkmprst" for two in "aeiou" for three in "lnrs"]
HELD_OUT = [CHANCE.choices(WORDS, k=60) for _ in range(20)]
OTHERS = [CHANCE.choices(WORDS, k=60) for _ in range(80)]
# One word of each is another one.
NEAR = [[*words[:30], "other", *words[31:]] for words in HELD_OUT[:5]]
# Most of the answer stands in a longer one, so that few of all words are the same.
WITHIN = [[*CHANCE.choices(WORDS, k=60), *words[10:55], *CHANCE.choices(WORDS, k=60)] for words in HELD_OUT[5:12]]


ROWS: list[tuple[list[str], Split]] = [
    *((words, VALIDATION) for words in HELD_OUT),
    *((words, TRAIN) for words in (*OTHERS, *NEAR, *WITHIN)),
]


def cleaned(
    tmp_path: Path, rows: list[tuple[list[str], Split]] = ROWS, **settings: object
) -> tuple[Spooled, DroppedRows]:
    source = []
    for number, (words, split) in enumerate(rows, start=1):
        chat = Chat((Message("user", f"Tell me of {words[0]} {words[1]}."), Message("assistant", " ".join(words))))
        source.append(SourceRow(chat, Place("s3://data/rows", number), split, content_key(chat)))
    dropped = DroppedRows()
    context = CleaningContext(Cleaning.model_validate({"conflictingAnswers": "keep"} | settings), 1024, dropped)
    spooled = spool(written(source), tmp_path / "clean")
    apply_set_steps([*SET_STEPS, *SPLIT_STEPS], spooled, context)
    return spooled, dropped


def kept(spooled: Spooled) -> list[int]:
    return [number for number, is_kept in enumerate(spooled.kept) if is_kept]


def test_leaked_rows_leave_training(tmp_path: Path) -> None:
    spooled, dropped = cleaned(tmp_path)
    assert kept(spooled) == list(range(len(HELD_OUT) + len(OTHERS)))
    assert dropped.counts == {"leaked": len(NEAR) + len(WITHIN)}


def test_leaks_are_found_where_near_duplicates_are_kept(tmp_path: Path) -> None:
    spooled, dropped = cleaned(tmp_path, nearDuplicates=0)
    assert kept(spooled) == list(range(len(HELD_OUT) + len(OTHERS)))
    assert dropped.counts == {"leaked": len(NEAR) + len(WITHIN)}


def test_leaks_may_be_kept(tmp_path: Path) -> None:
    spooled, dropped = cleaned(tmp_path, nearDuplicates=0, leakage="keep")
    assert len(kept(spooled)) == len(HELD_OUT) + len(OTHERS) + len(NEAR) + len(WITHIN)
    assert not dropped.counts


def test_held_out_rows_may_all_be_short(tmp_path: Path) -> None:
    answers = [CHANCE.choices(WORDS, k=3) for _ in range(20)]
    rows: list[tuple[list[str], Split]] = [(words, VALIDATION) for words in answers[:5]]
    rows += [(words, TRAIN) for words in (*answers[5:], *OTHERS[:5], [*answers[0], answers[0][-1]])]
    spooled, dropped = cleaned(tmp_path, rows, nearDuplicates=0)
    assert kept(spooled) == list(range(len(rows) - 1))
    assert dropped.counts == {"leaked": 1}
