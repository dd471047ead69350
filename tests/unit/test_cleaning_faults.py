"""A set with faults of every kind planted is cleaned of them, and a sound one loses next to nothing.

TUNEYARD_FAULT_ROWS sets the number of rows; the default is small.
"""

import json
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from support.datafiles import read_source
from support.faults import FAULTS, SETTINGS, Planted
from tuneyard_api.kinds.dataset import Cleaning, DataSource
from tuneyard_trainer.data.bad_rows import BadRows
from tuneyard_trainer.data.changes import Changes
from tuneyard_trainer.data.cleaning import REPEAT_STEPS, ROW_STEPS, SET_STEPS, SPLIT_STEPS
from tuneyard_trainer.data.cleaning.step import CleaningContext, apply_steps
from tuneyard_trainer.data.dropped import DroppedRows
from tuneyard_trainer.data.examples import Chat, Example
from tuneyard_trainer.data.files import DataFile
from tuneyard_trainer.data.readers.row import Place
from tuneyard_trainer.data.source import Reading
from tuneyard_trainer.data.split import held_out
from tuneyard_trainer.data.spool import Spooled, spool, written

ROWS = int(os.environ.get("TUNEYARD_FAULT_ROWS", "1000"))


COMPARED = ("nearDuplicate", "conflictingAnswer", "leaked")


class Found(Changes):
    """Remembers every changed row."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: dict[str, set[int]] = defaultdict(set)

    def add(self, place: Place, what: str, before: Example, after: Example, *, hide: bool = False) -> None:
        super().add(place, what, before, after, hide=hide)
        self.lines[what].add(place.number)


def cleaned(tmp_path: Path, rows: list[dict[str, str]], **settings: Any) -> tuple[Spooled, dict[str, set[int]]]:
    """The rows that are kept, and the lines by what was done to them."""
    path, dropped_path = tmp_path / "rows.jsonl", tmp_path / "dropped.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    clean, changes = Cleaning.model_validate(settings), Found()
    with DroppedRows(dropped_path) as dropped:
        reading = Reading(clean, BadRows(clean.bad_rows, dropped))
        source = DataSource.model_validate({"uri": "s3://data/rows.jsonl"})
        context = CleaningContext(clean, 1024, dropped, changes=changes)
        read = read_source(source, [DataFile("s3://data/rows.jsonl", path, "")], reading=reading)
        rows_kept = written(list(apply_steps(ROW_STEPS, read, context)))
        spooled = spool(apply_steps(REPEAT_STEPS, rows_kept, context), tmp_path / "clean")
        for step in SET_STEPS:
            step.apply(spooled, context)
        spooled.validation = held_out(spooled.keys, 0.05, 42)
        for step in SPLIT_STEPS:
            step.apply(spooled, context)
    found: dict[str, set[int]] = defaultdict(set, changes.lines)
    if dropped_path.exists():
        for line in map(json.loads, dropped_path.read_text().splitlines()):
            found[line["reason"]].add(line["line"])
    return spooled, found


@pytest.fixture(scope="module")
def planted() -> Planted:
    return Planted(ROWS, seed=7)


@pytest.fixture(scope="module")
def result(planted: Planted, tmp_path_factory: pytest.TempPathFactory) -> tuple[Spooled, dict[str, set[int]]]:
    return cleaned(tmp_path_factory.mktemp("faults"), planted.rows, **SETTINGS)


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault(planted: Planted, result: tuple[Spooled, dict[str, set[int]]], fault: str) -> None:
    expected, found = planted.faults[fault], result[1][fault]
    assert len(expected) >= 5
    hit = len(expected & found)
    missed = [planted.rows[line - 1] for line in sorted(expected - found)[:3]]
    wrong = [planted.rows[line - 1] for line in sorted(found - expected)[:3]]
    assert hit >= 0.98 * len(expected), f"{hit} of {len(expected)} found, missed: {missed}"
    assert hit >= 0.95 * len(found), f"{len(found) - hit} of {len(found)} are wrong: {wrong}"


def test_repaired_text_is_the_original(planted: Planted, result: tuple[Spooled, dict[str, set[int]]]) -> None:
    kept = {row.where.number: row.example for row in result[0].rows()}
    for fault in ("encodingRepaired", "controlCharactersRemoved"):
        lines = planted.faults[fault] & kept.keys()
        assert lines
        for line in lines:
            example = kept[line]
            assert isinstance(example, Chat)
            assert example.messages[-1].content == planted.sound[line]["completion"]


def test_sound_set_stays(tmp_path: Path) -> None:
    """With the defaults, and with every step."""
    rows = Planted(ROWS, seed=11, share=0).rows
    for settings in ({}, SETTINGS):
        spooled, found = cleaned(tmp_path, rows, **settings)
        assert len(spooled) >= 0.995 * len(rows), {name: len(lines) for name, lines in found.items()}


def test_demo_set(tmp_path: Path) -> None:
    """Nothing but rows that repeat, contradict or give away others goes: Kubernetes says many things twice."""
    lines = (Path(__file__).parents[2] / "examples/data/kubernetes-fields.jsonl").read_text().splitlines()
    spooled, found = cleaned(tmp_path, [json.loads(line) for line in lines])
    assert {name for name, lines in found.items() if lines} <= {*COMPARED, "duplicate"}
    assert len(spooled) + len(set.union(*found.values())) == len(lines)
