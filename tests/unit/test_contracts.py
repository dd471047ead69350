"""What the parts hand to each other: the largest legal spec goes through all of it, and no decision is lost."""

import json
from typing import Any

import pytest

from tuneyard_api import reasons
from tuneyard_api.contracts.results import (
    DatasetSummary,
    EvaluateResult,
    MeasuredArtifact,
    PublishResult,
    Recommendation,
)
from tuneyard_api.contracts.termination import (
    TERMINATION_BYTES,
    EvaluateReport,
    PrepareReport,
    PublishReport,
    StageReport,
    Termination,
    termination_message,
)
from tuneyard_api.kinds.finetunejob import FineTuneJobSpec
from tuneyard_api.kinds.finetunejob_status import GateStatus, Measurement
from tuneyard_api.registry import ARTIFACT_FORMATS
from tuneyard_api.stages import STAGES

DIGEST = "sha256:" + "f" * 64
LONG_URI = "s3://" + "b" * 63 + "/" + "p" * 955
# What the API may name one day: more formats than there are, with names as long as gguf-q4_k_m.
FORMATS = [*ARTIFACT_FORMATS, *(f"format-no-{number:02}" for number in range(16 - len(ARTIFACT_FORMATS)))]
SUBJECTS = ["base", "tuned", *FORMATS]


def evaluation(failing: str | None) -> EvaluateResult:
    """16 gates, each against every subject."""
    gates = [
        GateStatus(
            metric="perplexity", against="tuned", subject=name, value=1234.5678, limit=1234.5678, passed=name != failing
        )
        for _ in range(16)
        for name in FORMATS
    ]
    measurements = [Measurement(subject=name, metric="perplexity", value=1234.5678) for name in SUBJECTS]
    return EvaluateResult(measurements=measurements, gates=gates, passed=True, rows=10**9, tokens=10**12)


def published(failing: str | None) -> PublishResult:
    return PublishResult(
        artifacts=[
            MeasuredArtifact(uri=LONG_URI, digest=DIGEST, format=name, size_bytes=10**14, perplexity=1234.5678)
            for name in FORMATS
        ],
        recommended=Recommendation(format=FORMATS[0], reason="smallest of 16 artifacts whose gates passed " * 4),
        evaluation=evaluation(failing),
        dataset=dataset(),
        loss=1.2345,
    )


def dataset() -> DatasetSummary:
    dropped = {f"reasonOfThirtyCharacters{number:06}": 10**9 for number in range(20)}
    return DatasetSummary(rows_in=10**9, rows_kept=10**9, dropped=dropped, tokens=10**12, digest=DIGEST)


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
    report = PrepareReport(digests=digests, done=list(STAGES), dataset=dataset())
    assert PrepareReport.model_validate(sent(report).result) == report


@pytest.mark.parametrize("failing", [None, FORMATS[-1]])
def test_a_failed_gate_survives(failing: str | None) -> None:
    read = EvaluateReport.model_validate(sent(EvaluateReport.of(evaluation(failing))).result)
    assert (read.gates_failed, read.gates_passed) == ((16, 240) if failing else (0, 256))
    assert read.gates[0].passed is (failing is None)
    assert read.gates[0].subject == (failing or FORMATS[0])


def test_publish_names_every_artifact() -> None:
    read = PublishReport.model_validate(sent(PublishReport.of(published(FORMATS[3]))).result)
    assert [artifact.format for artifact in read.artifacts] == FORMATS
    assert read.evaluation and read.evaluation.gates_failed == 16
    assert read.recommended and read.recommended.format == FORMATS[0]


def test_a_small_report_is_sent_whole() -> None:
    report = EvaluateReport.of(evaluation(None).model_copy(update={"gates": evaluation("int8").gates[:5]}))
    read = Termination.parse(termination_message("Completed", "", report=report).decode())
    assert read is not None
    assert EvaluateReport.model_validate(read.result) == report


def test_what_cannot_be_sent_is_a_failure_with_a_name() -> None:
    report = PrepareReport(digests={}, dataset=dataset().model_copy(update={"digest": "x" * 5000}))
    read = Termination.parse(termination_message("Completed", "", report=report).decode())
    assert read is not None and read.reason == reasons.RESULT_TOO_LARGE


@pytest.mark.parametrize("text", ["", "Killed", "{}", "[]", '{"message": "no reason"}', '{"reason": 1}'])
def test_other_programs_words_are_no_termination(text: str) -> None:
    assert Termination.parse(text) is None


def test_the_largest_spec_is_legal() -> None:
    gate: dict[str, Any] = {"against": "tuned", "maxRatio": 1.05}
    spec = {
        "model": {"uri": LONG_URI},
        "dataset": {"train": [{"uri": LONG_URI}] * 32},
        "export": {"formats": list(ARTIFACT_FORMATS)},
        "evaluation": {"gates": [gate] * 16},
        "output": {"uri": LONG_URI},
    }
    assert len(FineTuneJobSpec.model_validate(spec).evaluation.gates) == 16
    assert len(LONG_URI) == 1024
    assert json.dumps(FineTuneJobSpec.model_validate(spec).evaluation.gates[0].wire()) == json.dumps(
        {"metric": "perplexity", **gate}
    )
