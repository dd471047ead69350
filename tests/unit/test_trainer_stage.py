"""How a stage ends: exit code, termination message, commit mark."""

import json
import logging
from pathlib import Path

import pytest

from support.memorystore import MemoryStore
from tuneyard_api import reasons
from tuneyard_api.contracts.results import (
    ArtifactRef,
    EvaluateResult,
    ExportResult,
    PrepareResult,
    StageMark,
    TrainResult,
)
from tuneyard_api.contracts.termination import EvaluateReport
from tuneyard_api.kinds.finetunejob import FineTuneJobSpec
from tuneyard_api.kinds.finetunejob_status import GateStatus, Measurement, TrainingStatus
from tuneyard_api.stages import STAGES
from tuneyard_store import errors as store_errors
from tuneyard_trainer.runtime.context import StageContext, stage_of
from tuneyard_trainer.runtime.errors import BadInput, DoesNotFit, StageError, TryAgain, from_store
from tuneyard_trainer.runtime.stage_runner import failure
from tuneyard_trainer.stages import run_stage

DIGEST = "sha256:" + "0" * 64
SPEC = FineTuneJobSpec.model_validate(
    {
        "model": {"uri": "s3://models/a"},
        "dataset": {"train": [{"uri": "s3://data/a.jsonl"}]},
        "output": {"uri": "s3://artifacts/a"},
    }
)


@pytest.mark.parametrize(
    ("error", "code"), [(StageError, 1), (BadInput, 65), (TryAgain, 75), (DoesNotFit, 78)]
)  # fmt: skip
def test_exit_codes(error: type[StageError], code: int) -> None:
    assert error("Reason", "message").exit_code == code


def test_errors_of_the_store() -> None:
    for kind in [store_errors.StoreError, *store_errors.StoreError.__subclasses__()]:
        error = from_store(kind("what", "do"))
        assert (error.reason, error.message, error.advice) == (kind.reason, "what", "do")
        assert error.exit_code == (75 if kind is store_errors.StorageUnavailable else 65)


def test_messages_and_advice_are_sentences() -> None:
    assert str(BadInput("Reason", "what is wrong", "what to do")) == "what is wrong. what to do."
    assert str(BadInput("Reason", "Really?")) == "Really?"


def test_failed_gate_reports_its_measurements() -> None:
    gate = GateStatus(metric="perplexity", against="base", subject="tuned", value=6, limit=5, passed=False)
    measured = EvaluateResult(
        measurements=[Measurement(subject="tuned", metric="perplexity", value=6)],
        gates=[gate],
        passed=False,
        rows=1,
        tokens=1,
    )
    error = BadInput(reasons.GATE_FAILED, "worse", "train longer", EvaluateReport.of(measured))
    outcome = failure(error, logging.getLogger("test"))
    assert (outcome.exit_code, outcome.reason, outcome.message) == (65, "GateFailed", "worse.")
    assert isinstance(outcome.report, EvaluateReport)
    assert outcome.report.gates == [gate]


def context(tmp_path: Path) -> StageContext:
    return StageContext(stage="train", name="x", spec=SPEC, store=MemoryStore(), work=tmp_path)


def test_unknown_error_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        outcome = run_stage(context(tmp_path))  # without prepare's digests
    assert (outcome.exit_code, outcome.reason) == (1, reasons.STAGE_CRASHED)
    assert "KeyError: 'train'" in outcome.message
    assert "Traceback" in caplog.text


@pytest.fixture
def committed(tmp_path: Path) -> tuple[StageContext, MemoryStore]:
    made, store = context(tmp_path), MemoryStore()
    made.digests, made.store = dict.fromkeys(STAGES, "0" * 64), store
    return made, store


def test_committed_result_is_found_by_its_type(committed: tuple[StageContext, MemoryStore]) -> None:
    made, store = committed
    assert made.find_result(TrainResult) is None
    with pytest.raises(StageError, match="does not exist"):
        made.result_of(TrainResult)
    result = TrainResult(
        training=TrainingStatus(steps=3, kept_step=3, loss=1.5),
        adapter=ArtifactRef(uri="s3://a/adapter", digest=DIGEST),
    )
    made.commit(result)
    assert made.result_of(TrainResult) == result
    (mark,) = store.objects.values()
    assert StageMark[TrainResult].model_validate_json(mark).result == result


@pytest.mark.parametrize(
    ("kind", "old"),
    [
        (
            PrepareResult,
            {
                "dataset": {
                    "rowsIn": 9,
                    "rowsKept": 8,
                    "dropped": {"duplicate": 1},
                    "tokens": 99,
                    "digest": DIGEST,
                    "reportURI": "s3://a/report.html",
                },
                "totalSteps": 12,
            },
        ),
        (
            TrainResult,
            {"training": {"steps": 12, "keptStep": 9}, "adapterURI": "s3://a/adapter", "adapterDigest": DIGEST},
        ),
        (
            ExportResult,
            {
                "artifacts": [],
                "merged": {"format": "bf16", "uri": "s3://a/bf16", "digest": DIGEST, "sizeBytes": 5},
            },
        ),
    ],
)
def test_marks_of_version_1_are_read(
    committed: tuple[StageContext, MemoryStore], kind: type[PrepareResult | TrainResult], old: dict[str, object]
) -> None:
    made, store = committed
    mark = {"stage": stage_of(kind), "version": 1, "digest": "0" * 64, "result": old}
    store.objects[made.uri(stage_of(kind), "stage.json")] = json.dumps(mark).encode()
    assert made.result_of(kind) == kind.model_validate(old)
    if kind is TrainResult:
        assert made.result_of(TrainResult).adapter == ArtifactRef(uri="s3://a/adapter", digest=DIGEST)


@pytest.mark.parametrize("text", [b"", b"[]", b'{"result": {}}', b'{"stage": "train", "version": 1, "digest": "0"}'])
def test_broken_mark_is_named(committed: tuple[StageContext, MemoryStore], text: bytes) -> None:
    made, store = committed
    uri = made.uri("train", "stage.json")
    store.objects[uri] = text
    with pytest.raises(StageError, match="is no commit mark") as caught:
        made.result_of(TrainResult)
    assert (caught.value.reason, uri in caught.value.advice) == (reasons.ARTIFACT_CORRUPT, True)
