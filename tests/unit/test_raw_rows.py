"""Of 2,000 raw rows the tenth that is fit comes out of prepare, and the report says what happened to the others."""

import json
from collections import Counter
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from data.make_raw_rows import FAULTS, RawRow, raw_rows
from support.memorystore import MemoryStore
from support.pages import Page
from support.tinymodel import write_model
from tuneyard_api.kinds.finetunejob import FineTuneJobSpec
from tuneyard_trainer.commands.cli import main
from tuneyard_trainer.runtime.context import StageContext
from tuneyard_trainer.stages import run_stage

JOB: Final = Path(__file__).parents[2] / "examples/raw-rows.yaml"
Outputs = dict[str, bytes]


@pytest.fixture(scope="module")
def rows() -> list[RawRow]:
    return raw_rows()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "model", plain=True)


@pytest.fixture(scope="module")
def outputs(rows: list[RawRow], model: Path, tmp_path_factory: pytest.TempPathFactory) -> Outputs:
    """The files that the prepare stage of the example leaves in the store, by name."""
    spec = FineTuneJobSpec.model_validate(yaml.safe_load(JOB.read_text())["spec"])
    store = MemoryStore()
    store.objects = {f"{spec.model.uri}/{path.name}": path.read_bytes() for path in model.iterdir()}
    store.objects[spec.dataset.train[0].uri] = written(rows)
    context = StageContext(
        stage="prepare", name="raw-rows", spec=spec, store=store, work=tmp_path_factory.mktemp("work")
    )
    outcome = run_stage(context)
    assert outcome.reason == "Completed", outcome
    prefix = context.uri("prepare") + "/"
    return {uri.removeprefix(prefix): data for uri, data in store.objects.items() if uri.startswith(prefix)}


def written(rows: list[RawRow]) -> bytes:
    return "".join(f"{row.line}\n" for row in rows).encode()


def objects(lines: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines.decode().splitlines()]


def test_one_row_in_ten_is_fit(rows: list[RawRow]) -> None:
    assert (len(rows), sum(not row.fault for row in rows)) == (2000, 200)
    assert {row.fault for row in rows} == {"", *FAULTS}
    assert rows == raw_rows()
    assert rows != raw_rows(seed=2)


def test_exactly_the_fit_rows_come_out_repaired(rows: list[RawRow], outputs: Outputs) -> None:
    fit = {(row.meant["question"], row.meant["answer"]) for row in rows if not row.fault}
    kept = [row["messages"] for name in ("train", "validation") for row in objects(outputs[f"{name}.jsonl"])]
    found = [(question["content"], answer["content"]) for question, answer in kept]
    assert sorted(found) == sorted(fit)
    assert sum(row.line != json.dumps(row.meant, ensure_ascii=False) for row in rows if not row.fault) > 20


def test_every_other_row_is_dropped_for_what_is_wrong_with_it(rows: list[RawRow], outputs: Outputs) -> None:
    wrong = {line: row.fault for line, row in enumerate(rows, 1) if row.fault}
    assert {row["line"]: row["reason"] for row in objects(outputs["dropped.jsonl"])} == wrong


def test_the_report_adds_up(rows: list[RawRow], outputs: Outputs) -> None:
    report = json.loads(outputs["report.json"])
    assert report["dropped"] == Counter(row.fault for row in rows if row.fault)
    assert (report["rowsIn"], report["rowsKept"]) == (2000, 200)
    assert report["rowsKept"] + sum(report["dropped"].values()) == 2000
    shown = {tuple(row[:2]) for row in Page.of(outputs["report.html"].decode()).rows}
    assert {(reason, str(count)) for reason, count in report["dropped"].items()} <= shown
    assert {"encodingRepaired", "controlCharactersRemoved", "secretsRedacted"} <= {row[0] for row in shown if row}
    assert ("all parts", f"{report['fit']['requiredGiB']:.1f}") in shown
    assert b"ghp_" not in outputs["report.json"]
    assert b"ghp_" not in outputs["dropped.jsonl"]


def test_on_a_laptop(
    rows: list[RawRow], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("raw-rows.jsonl").write_bytes(written(rows))
    code = main(["data", "check", "raw-rows.jsonl", "--job", str(JOB), "--model", str(model)])
    output = " ".join(capsys.readouterr().out.split())
    assert code == 0, output
    for words in ("read 2,000", "duplicate 420 raw-rows.jsonl, line", "kept 200", "A job would take these rows."):
        assert words in output, output
