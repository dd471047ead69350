"""prepare with several processes: the bytes, the counts and the errors are those of one process."""

import gzip
import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fuzz.kinds import model_files, tokenizer_in_process
from support.faults import SETTINGS, Planted
from support.memorystore import MemoryStore
from tuneyard_api.kinds.finetunejob import FineTuneJobSpec
from tuneyard_trainer.data import blocks
from tuneyard_trainer.runtime import processes
from tuneyard_trainer.runtime.context import StageContext
from tuneyard_trainer.runtime.errors import BadInput, DoesNotFit, StageError
from tuneyard_trainer.runtime.processes import Workers, process_count
from tuneyard_trainer.runtime.stage_runner import Outcome
from tuneyard_trainer.stages import run_stage

Json = dict[str, Any]
BROKEN = (b'{"prompt": "Why?"\n', b'{"prompt": "Why?", "completion": 7}\n', b'{"text": "A text."}\n', b"[]\n")


def files() -> dict[str, bytes]:
    """Rows with every kind of fault, in several formats and files."""
    rows = [json.dumps(row).encode() + b"\n" for row in Planted(400, seed=3).rows]
    for number, line in enumerate(BROKEN * 5):
        rows.insert(20 * number + 9, line)
    table = "instruction,output\n" + "".join(f"Say {number}.,It is {number} {number}.\n" for number in range(60))
    return {
        "own/a.jsonl": b"".join(rows[:250]),
        "own/b.jsonl.gz": gzip.compress(b"".join(rows[240:]), mtime=0),
        "own/c.csv": table.encode(),
        "held.jsonl": b"".join(rows[10:25]),
    }


def prepare(work: Path, threads: int, data: dict[str, bytes], **clean: Any) -> tuple[Outcome, dict[str, bytes]]:
    """The outcome, and what was written."""
    store = MemoryStore()
    store.objects = {f"s3://models/tiny/{name}": content for name, content in model_files().items()}
    store.objects |= {f"s3://data/{name}": content for name, content in data.items()}
    given = set(store.objects)
    dataset = {
        "train": [{"uri": "s3://data/own"}],
        "validation": {"uri": "s3://data/held.jsonl"},
        "replay": {"uri": "builtin://general", "fraction": 0.1},
        "clean": SETTINGS | {"languages": [], "minRows": 1, "maxLength": "truncate"} | clean,
    }
    spec = FineTuneJobSpec.model_validate(
        {
            "model": {"uri": "s3://models/tiny"},
            "dataset": dataset,
            "training": {"maxLength": 400},
            "output": {"uri": "s3://out/put"},
        }
    )
    work.mkdir()
    with tokenizer_in_process():
        context = StageContext(stage="prepare", name="test", spec=spec, store=store, work=work, threads=threads)
        outcome = run_stage(context)
    return outcome, {name: content for name, content in store.objects.items() if name not in given}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(processes, "BYTES_PER_PROCESS", 1)
    monkeypatch.setattr(blocks, "ROWS", 40)
    yield
    assert not multiprocessing.active_children()


def test_the_bytes_are_those_of_one_process(tmp_path: Path) -> None:
    (alone, expected), (both, written) = (prepare(tmp_path / str(count), count, files()) for count in (1, 2))
    assert alone.reason == "Completed", alone
    assert (both.reason, both.report) == (alone.reason, alone.report)
    assert written.keys() == expected.keys()
    assert [name for name in written if written[name] != expected[name]] == []
    (dropped,) = (content for name, content in written.items() if name.endswith("dropped.jsonl"))
    assert {"invalidJSON", "duplicate", "refusal", "nearDuplicate"} <= {
        json.loads(line)["reason"] for line in dropped.splitlines()
    }


@pytest.mark.parametrize(
    ("data", "clean", "where"),
    [
        ({}, {"badRows": {"policy": "fail"}}, "s3://data/own/a.jsonl, line 10, column 1: not JSON"),
        ({"own/b.jsonl.gz": files()["own/b.jsonl.gz"][:-300]}, {}, "own/b.jsonl.gz, after line"),
        ({}, {"maxLength": "fail"}, "tokens; training.maxLength is 400"),
    ],
)
def test_the_errors_are_those_of_one_process(tmp_path: Path, data: Json, clean: Json, where: str) -> None:
    alone, _ = prepare(tmp_path / "one", 1, files() | data, **clean)
    both, _ = prepare(tmp_path / "two", 2, files() | data, **clean)
    assert (both.reason, both.message, both.advice) == (alone.reason, alone.message, alone.advice)
    assert alone.exit_code == 65
    assert where in alone.message


def halved(number: int) -> int:
    if number == 13:
        raise BadInput("Odd", "13 is odd", "Give 14.")
    return number // 2


def ended(number: int) -> int:
    os._exit(number)


def numbers() -> Iterator[int]:
    yield from (0, 2, 4)
    raise BadInput("Broken", "the file ends here", "Copy it again.")


@pytest.mark.parametrize("count", [1, 2])
def test_what_comes_before_an_error_is_taken_first(count: int) -> None:
    with Workers(halved, count) as workers:
        assert list(workers.map(range(0, 12, 2))) == [0, 1, 2, 3, 4, 5]
        results = workers.map(numbers())
        assert [next(results) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(BadInput, match="the file ends here"):
            next(results)
        with pytest.raises(BadInput, match="13 is odd") as error:
            list(workers.map((13, 15)))
        assert (error.value.reason, error.value.advice) == ("Odd", "Give 14.")


def test_a_process_that_ends_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with Workers(ended, 2) as workers, pytest.raises(StageError, match="ended before it was done") as error:
        list(workers.map((7, 7)))
    assert error.value.reason == "StageCrashed"
    kills = iter((3, 4))
    monkeypatch.setattr(processes, "oom_kills", lambda: next(kills))
    with Workers(ended, 2) as workers, pytest.raises(DoesNotFit, match="more memory than the pod may use"):
        list(workers.map((7,)))


def test_a_small_file_needs_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "BYTES_PER_PROCESS", 100)
    assert [process_count(4, size) for size in (0, 99, 100, 250, 10_000)] == [1, 1, 2, 3, 4]
    assert process_count(None, 10_000) == 1


SERVED = """
made = []


def make():
    made.append("made once")


def seen(times):
    return made * times
"""
SERVING = """
from served import made, make, seen
from tuneyard_trainer.runtime.processes import Workers, start_server

if __name__ == "__main__":
    start_server(["served"], make)
    with Workers(seen, 2) as workers:
        print([*workers.map([1, 2])], made)
"""


def test_processes_have_what_their_server_has_made(tmp_path: Path) -> None:
    (tmp_path / "served.py").write_text(SERVED)
    (tmp_path / "serving.py").write_text(SERVING)
    command = [sys.executable, "serving.py"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.stdout == "[['made once'], ['made once', 'made once']] []\n", run.stderr
