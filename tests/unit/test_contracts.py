"""What the parts hand to each other: the largest legal spec goes through all of it, and no decision is lost."""

import json

import pytest

from support.largest import FORMATS, GATE, LONG_URI, dataset, evaluation, fit, largest_spec, published, training
from tuneyard_api import reasons
from tuneyard_api.contracts.termination import (
    TERMINATION_BYTES,
    EvaluateReport,
    PrepareReport,
    PublishReport,
    StageReport,
    Termination,
    TrainReport,
    termination_message,
)
from tuneyard_api.kinds.finetunejob import FineTuneJobSpec
from tuneyard_api.stages import STAGES


def sent(report: StageReport) -> Termination:
    """What the operator reads, when message and advice are as long as they get."""
    text = termination_message("Completed", f"Written to {LONG_URI}." * 3, "Do this. " * 300, report)
    assert len(text) <= TERMINATION_BYTES
    read = Termination.parse(text.decode())
    assert read is not None and read.reason == "Completed"
    assert read.message and read.advice
    return read


def test_prepare_names_every_digest() -> None:
    digests = dict.fromkeys(STAGES, "0" * 64)
    report = PrepareReport(digests=digests, done=list(STAGES), dataset=dataset(), fit=fit("x" * 300))
    assert PrepareReport.model_validate(sent(report).result) == report
    longer = report.model_copy(update={"fit": fit("x" * 3000)})
    assert PrepareReport.model_validate(sent(longer).result).fit == fit(None)


def test_train_says_where_it_is_tracked() -> None:
    """The curve goes first, and with the longest addresses they go, too; steps and verdict stay."""
    read = TrainReport.model_validate(sent(TrainReport.of_status(training(1000))).result).training
    assert (read.steps, read.kept_step, read.micro_batch_size) == (10**9, 10**6, 65536)
    assert read.verdict
    usual = training(1000).model_copy(update={"tensorboard_uri": f"s3://artifacts/runs/{'0' * 64}/train/tensorboard"})
    message = Termination.parse(termination_message("Completed", "", report=TrainReport.of_status(usual)).decode())
    assert message is not None
    read = TrainReport.model_validate(message.result).training
    assert (read.tensorboard_uri, read.mlflow) == (usual.tensorboard_uri, usual.mlflow)
    assert read.curve


@pytest.mark.parametrize("failing", [None, FORMATS[-1]])
def test_failed_gate_survives(failing: str | None) -> None:
    read = EvaluateReport.model_validate(sent(EvaluateReport.of(evaluation(failing))).result)
    assert (read.gates_failed, read.gates_passed) == ((16, 240) if failing else (0, 256))
    assert read.gates[0].passed is (failing is None)
    assert read.gates[0].subject == (failing or FORMATS[0])


def test_publish_names_every_artifact() -> None:
    read = PublishReport.model_validate(sent(PublishReport.of(published(FORMATS[3]))).result)
    assert [artifact.format for artifact in read.artifacts] == FORMATS
    assert read.evaluation and read.evaluation.gates_failed == 16
    assert read.recommended and read.recommended.format == FORMATS[0]


def test_small_report_is_sent_whole() -> None:
    report = EvaluateReport.of(evaluation(None).model_copy(update={"gates": evaluation("int8").gates[:5]}))
    read = Termination.parse(termination_message("Completed", "", report=report).decode())
    assert read is not None
    assert EvaluateReport.model_validate(read.result) == report


def test_too_large_report_is_a_named_failure() -> None:
    report = PrepareReport(digests={}, dataset=dataset().model_copy(update={"digest": "x" * 5000}))
    read = Termination.parse(termination_message("Completed", "", report=report).decode())
    assert read is not None and read.reason == reasons.RESULT_TOO_LARGE


@pytest.mark.parametrize("text", ["", "Killed", "{}", "[]", '{"message": "no reason"}', '{"reason": 1}'])
def test_other_programs_words_are_no_termination(text: str) -> None:
    assert Termination.parse(text) is None


def test_largest_spec_is_legal() -> None:
    spec = FineTuneJobSpec.model_validate(largest_spec())
    assert len(spec.gates) == 16
    assert len(LONG_URI) == 1024
    assert json.dumps(spec.gates[0].wire()) == json.dumps({"metric": "perplexity", **GATE})
