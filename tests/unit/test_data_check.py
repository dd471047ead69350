"""`tuneyard data check`: the tables, the verdict and the files that it leaves."""

import json
from pathlib import Path
from typing import Any

import pytest

from support.datafiles import lines
from support.pages import Page
from support.tinymodel import write_model
from tuneyard_trainer.commands.cli import main

ROWS = [{"question": f"What is {number}?", "answer": f"A number, {number}."} for number in range(120)]
BAD = b'{broken\n{"question": "Why?"}\n'


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model", weights=False)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths are relative, as people type them."""
    monkeypatch.chdir(tmp_path)


def checked(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = main(["data", "check", *arguments])
    return code, " ".join(capsys.readouterr().out.split())


def report() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path("data-report/report.json").read_text())
    return found


def test_good_and_bad_rows(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("x.jsonl").write_bytes(lines(*ROWS, ROWS[7]) + BAD)
    code, output = checked(capsys, "x.jsonl", "--model", "model")
    assert code == 0, output
    for words in (
        "read 123",
        "duplicate 1 x.jsonl, line 121",
        "invalidJSON 1 x.jsonl, line 122: not JSON",
        "missingAnswer 1 x.jsonl, line 123: the field answer is missing",
        "kept 120 114 for train, 6 for validation",
        "prompt-completion 121 answer, question x.jsonl, line 1",
        "TOKENS P50 P90 P99 P100 ALL TRAINED",
        "A job would take these rows.",
        "Report: data-report/report.html",
    ):
        assert words in output, output
    dropped = [json.loads(line) for line in Path("data-report/dropped.jsonl").read_text().splitlines()]
    assert [row["line"] for row in dropped] == [121, 122, 123]
    page = Page.of(Path("data-report/report.html").read_text())
    assert page.defects() == []
    assert report()["tokens"] > report()["supervisedTokens"] > 0


def test_without_a_tokenizer(capsys: pytest.CaptureFixture[str]) -> None:
    """All files of a directory; of an earlier check nothing is left."""
    Path("data-report").mkdir()
    Path("data-report/dropped.jsonl").write_text("{}\n")
    Path("folder").mkdir()
    Path("folder/a.jsonl").write_bytes(lines(*ROWS[:60]))
    Path("folder/b.csv").write_text("ask,reply,why\n" + "".join(f"Ask {n}?,Reply {n}.,because\n" for n in range(60)))
    code, output = checked(capsys, "folder", "--columns", "prompt=ask,completion=reply", "--ignore", "why")
    assert (code, report()["rowsKept"], report()["tokens"]) == (0, 120, 0), output
    code, output = checked(capsys, "folder/b.csv", "--columns", "prompt=ask,completion=reply", "--ignore", "why")
    assert (code, report()["rowsKept"]) == (65, 60)
    assert "TooFewRows: 60 rows are left of 60" in output
    assert "TOKENS" not in output
    assert not Path("data-report/dropped.jsonl").exists()


@pytest.mark.parametrize(
    ("clean", "problem"),
    [
        ({"badRows": {"maxFraction": 0.01}}, "2 of 122 rows cannot be used; dataset.clean.badRows.maxFraction is 0.01"),
        ({"badRows": {"policy": "fail"}}, "2 of 122 rows cannot be used; dataset.clean.badRows.policy is fail"),
        ({"minRows": 121}, "TooFewRows: 120 rows are left of 122"),
        ({"minRows": 120}, ""),
    ],
)
def test_the_verdict_is_that_of_the_job(clean: Any, problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    spec = {
        "model": {"uri": "s3://models/a"},
        "dataset": {"train": [{"uri": "s3://data/x.jsonl"}], "clean": clean},
        "output": {"uri": "s3://out/a"},
    }
    job = {"apiVersion": "tuneyard.dev/v1alpha1", "kind": "FineTuneJob", "metadata": {"name": "a"}, "spec": spec}
    Path("job.yaml").write_text(json.dumps(job))
    Path("x.jsonl").write_bytes(lines(*ROWS) + BAD)
    code, output = checked(capsys, "x.jsonl", "--job", "job.yaml")
    assert code == (65 if problem else 0)
    assert (problem or "A job would take these rows.") in output
    assert report()["rowsKept"] == 120, "all rows are looked at before anything is judged"


def test_rows_that_are_too_long(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("x.jsonl").write_bytes(lines(*ROWS))
    code, output = checked(capsys, "x.jsonl", "--model", "model", "--max-length", "16")
    assert code == 65
    assert "tooLong 120 x.jsonl, line 1" in output
    assert (
        "TooFewRows: 0 rows are left of 120 (dropped: 120 tooLong); dataset.clean.minRows is 100. Most were" in output
    )


def test_a_file_that_breaks_off(capsys: pytest.CaptureFixture[str]) -> None:
    """What was read so far is in the report."""
    Path("x.json").write_text(json.dumps(ROWS[:100])[:-30])
    code, output = checked(capsys, "x.json")
    assert code == 65
    assert "A job would fail. InvalidJSON: x.json, line 1, column" in output
    assert report()["rowsIn"] == 99


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        (
            "own.jsonl",
            ["InvalidRow: 120 rows such as own.jsonl, line 1: the fields ask, reply", "name your fields in columns"],
        ),
        ("one.jsonl", ["TooFewRows: 1 rows are left of 1 (dropped: none); dataset.clean.minRows is 100"]),
    ],
)
def test_too_few_rows_are_left(name: str, verdict: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The job's own limits say why, not those with which all rows were looked at."""
    Path("own.jsonl").write_bytes(lines(*({"ask": f"Ask {n}?", "reply": f"Reply {n}."} for n in range(120))))
    Path("one.jsonl").write_bytes(lines(ROWS[0]))
    code, output = checked(capsys, name)
    assert code == 65
    for words in verdict:
        assert words in output, output


def test_half_a_character_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """Where a field has it in its name, and in a value of a row that is shown."""
    Path("x.jsonl").write_bytes(lines({"\ud800": 1, "body": "\udc00"}))
    code, output = checked(capsys, "x.jsonl")
    assert code == 65
    assert r"x.jsonl, line 1: the fields \ud800, body are of no known format" in output
    assert r'{"\ud800": 1, "body": "\udc00"}' in output
    assert "surrogates not allowed" not in output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing.jsonl"], "DatasetNotFound: nothing.jsonl does not exist. Give files that end in .jsonl"),
        (["."], "DatasetNotFound: . has no data files"),
        (["x.jsonl", "--model", "nowhere"], "nowhere"),
        (["empty.jsonl"], "DatasetEmpty: empty.jsonl has no rows"),
    ],
)
def test_nothing_to_check(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    if arguments != ["."]:
        Path("x.jsonl").write_bytes(lines(*ROWS))
        Path("empty.jsonl").write_bytes(b"")
    code, output = checked(capsys, *arguments)
    assert code == 65
    assert words in output


def test_wrong_columns(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["data", "check", "x.jsonl", "--columns", "prompt"])
    assert "'prompt' is not FIELD=COLUMN" in capsys.readouterr().err


def test_rows_of_a_job_without_training(capsys: pytest.CaptureFixture[str]) -> None:
    """They may be few, and its calibration says what their columns mean."""
    calibration = {"uri": "s3://data/c.jsonl", "columns": {"question": "ask"}}
    spec = {
        "model": {"uri": "s3://models/a"},
        "training": {"method": "none"},
        "export": {"calibration": calibration},
        "output": {"uri": "s3://out/a"},
    }
    job = {"apiVersion": "tuneyard.dev/v1alpha1", "kind": "FineTuneJob", "metadata": {"name": "x"}, "spec": spec}
    Path("job.json").write_text(json.dumps(job))
    Path("x.jsonl").write_bytes(lines(*({"ask": f"What is {number}?", "answer": "This."} for number in range(9))))
    code, output = checked(capsys, "x.jsonl", "--job", "job.json")
    assert code == 0, output
    assert "A job would take these rows." in output
