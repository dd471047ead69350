"""The largest legal FineTuneJob, and the largest results that its stages report."""

from typing import Any, Final

from tuneyard_api.contracts.results import (
    DatasetSummary,
    EvaluateResult,
    MeasuredArtifact,
    PublishResult,
    Recommendation,
)
from tuneyard_api.kinds.finetunejob_status import (
    CurvePoint,
    Fidelity,
    FitStatus,
    GateStatus,
    Measurement,
    MlflowStatus,
    TrainingStatus,
)
from tuneyard_api.registry import ARTIFACT_FORMATS

DIGEST: Final = "sha256:" + "f" * 64
LONG_URI: Final = "s3://" + "b" * 63 + "/" + "p" * 955
# What the API may name one day: more formats than there are, with names as long as gguf-q4_k_m.
FORMATS: Final = [*ARTIFACT_FORMATS, *(f"format-no-{number:02}" for number in range(16 - len(ARTIFACT_FORMATS)))]
SUBJECTS: Final = ["base", "tuned", *FORMATS]


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
            MeasuredArtifact(
                uri=LONG_URI,
                digest=DIGEST,
                format=name,
                size_bytes=10**14,
                perplexity=1234.5678,
                memory_bytes=10**14,
                seconds_to_first_token=0.0001234,
                tokens_per_second=12345.6,
                tokens_per_second_together=12345.6,
                kl=0.0001234,
                changed_top1=0.001234,
                end_probability=0.01234,
                fidelity=Fidelity(kl=0.0001234, changed_top1=0.01234, logits_error=0.1234),
            )
            for name in FORMATS
        ],
        recommended=Recommendation(format=FORMATS[0], reason="smallest of 16 artifacts whose gates passed " * 4),
        evaluation=evaluation(failing),
        dataset=dataset(),
        training=training(points=0),
    )


def training(points: int) -> TrainingStatus:
    course = [CurvePoint(step=10**6 + step, loss=1.23456789, validation_loss=1.23456789) for step in range(points)]
    page = f"https://{'m' * 200}.example/#/experiments/{'1' * 18}/runs/{'a' * 32}"
    return TrainingStatus(
        steps=10**9,
        kept_step=10**6,
        micro_batch_size=65536,
        loss=1.2345678,
        verdict="Overfitting. " * 20,
        curve=course,
        tensorboard_uri=LONG_URI,
        mlflow=MlflowStatus(url=page, run_id="a" * 32, lost=10**9, message="does not answer. " * 20),
    )


def dataset() -> DatasetSummary:
    dropped = {f"reasonOfThirtyCharacters{number:06}": 10**9 for number in range(20)}
    return DatasetSummary(rows_in=10**9, rows_kept=10**9, dropped=dropped, tokens=10**12, digest=DIGEST)


def fit(advice: str | None) -> FitStatus:
    """Without advice it has no parts either."""
    names = ("weights", "adapter", "gradients", "optimizer", "activations", "logits", "reserve") if advice else ()
    return FitStatus(
        verdict="DoesNotFit",
        required_gib=12345.6,
        available_gib=12345.6,
        device="the pod's limit of memory",
        parts=dict.fromkeys(names, 12345.67),
        advice=advice,
    )


GATE: Final[dict[str, Any]] = {"against": "tuned", "maxRatio": 1.05}


def largest_spec() -> dict[str, Any]:
    """Every format, 16 gates, 32 sources, the longest URIs and names; a failed gate does not block the release."""
    return {
        "model": {"uri": LONG_URI, "chatTemplate": "x" * 65536},
        "dataset": {"train": [{"uri": LONG_URI}] * 32},
        "training": {"effectiveBatchSize": 65536, "microBatchSize": 1},
        "export": {"formats": list(ARTIFACT_FORMATS)},
        "evaluation": {"gates": [GATE] * 16, "onGateFailure": "Warn"},
        "output": {"uri": LONG_URI, "secretRef": {"name": "k" * 253}},
        "resources": {"nodes": 64, "gpus": 64, "limits": {"cpu": "64", "memory": "1024Gi"}},
        "queueName": "q" * 63,
        "priorityClassName": "p" * 253,
        "retryPolicy": {"backoffLimit": 100},
    }
