"""The recommended artifact, and the model card."""

from pathlib import Path

import pytest
import yaml

from tuneyard_api import cpu
from tuneyard_api.contracts.results import (
    DatasetSummary,
    EvaluateResult,
    ExportedArtifact,
    Level,
    MeasuredArtifact,
    Release,
)
from tuneyard_api.contracts.termination import PublishReport
from tuneyard_api.kinds.finetunejob import FineTuneJobSpec
from tuneyard_api.kinds.finetunejob_status import (
    CurvePoint,
    GateStatus,
    Measurement,
    MlflowStatus,
    TrainingStatus,
)
from tuneyard_api.kinds.modelserver import ModelServerSpec
from tuneyard_api.stages import STAGES
from tuneyard_trainer.commands.local_run import summary
from tuneyard_trainer.reports.model_card import render_model_card
from tuneyard_trainer.stages.publish import measured, recommend, recommendation

PERPLEXITY = {"base": 20.0, "tuned": 5.0, "int8": 5.1, "gptq": 5.4}
MEASUREMENTS = [Measurement(subject=name, metric="perplexity", value=value) for name, value in PERPLEXITY.items()]
LEVELS = [
    Level(
        subject=name,
        size_bytes=1000,
        perplexity=value,
        memory_bytes=900,
        tokens_per_second=12.5,
        engine="toy 1.0",
        kl=None if name == "tuned" else 0.01,
        changed_top1=None if name == "tuned" else 0.02,
        end_probability=0.75,
    )
    for name, value in PERPLEXITY.items()
]
SIZES = {"bf16": 300_000_000, "int8": 170_000_000, "gptq": 100_000_000}
DIGEST = "sha256:" + "a" * 64


def artifacts(*formats: str) -> list[MeasuredArtifact]:
    exported = [
        ExportedArtifact(format=name, uri=f"s3://out/{name}", digest=DIGEST, size_bytes=SIZES[name]) for name in formats
    ]
    return measured(exported, LEVELS)


def gate(subject: str, passed: bool) -> GateStatus:
    against = "base" if subject == "tuned" else "tuned"
    return GateStatus(metric="perplexity", against=against, subject=subject, value=5.0, limit=6.0, passed=passed)


ALL = ("bf16", "int8", "gptq")
SPEC = {
    "model": {"uri": "s3://models/a"},
    "training": {"method": "qlora"},
    "dataset": {"train": [{"uri": "s3://data/a.jsonl"}]},
    "output": {"uri": "s3://out"},
}


@pytest.mark.parametrize(
    ("formats", "gates", "chosen", "says"),
    [
        (ALL, [gate("tuned", True), gate("int8", True), gate("gptq", True)], "gptq", "smallest of 3"),
        (ALL, [gate("tuned", True), gate("int8", True), gate("gptq", False)], "int8", "gptq failed"),
        (ALL, [gate("tuned", True), gate("int8", False), gate("gptq", False)], "bf16", "the only artifact"),
        (("int8", "gptq"), [gate("int8", True), gate("gptq", False)], "int8", "the only artifact"),
        (ALL, [], "gptq", "smallest of 3"),
        # With onGateFailure: Warn the release is published all the same; the best artifact is the least bad.
        (ALL, [gate("tuned", False), gate("int8", True), gate("gptq", True)], "bf16", "though a gate failed"),
        (("int8", "gptq"), [gate("int8", False), gate("gptq", False)], "int8", "though a gate failed"),
    ],
)
def test_recommendation(formats: tuple[str, ...], gates: list[GateStatus], chosen: str, says: str) -> None:
    recommended = recommend(artifacts(*formats), gates)
    assert recommended.format == chosen
    assert says in recommended.reason


@pytest.mark.parametrize(
    ("formats", "gpus", "chosen", "says"),
    [
        (ALL, 0, "int8", "smallest of 2 artifacts whose gates passed (170 MB"),
        (ALL, 1, "gptq", "smallest of 3"),
        (("gptq",), 0, "gptq", "the only artifact"),
    ],
)
def test_what_the_cpu_cannot_serve_is_not_recommended(
    formats: tuple[str, ...], gpus: int, chosen: str, says: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "cpuinfo").write_text("flags\t\t: fma avx2\n")
    monkeypatch.setattr(cpu, "CPUINFO", tmp_path / "cpuinfo")
    spec = FineTuneJobSpec.model_validate(SPEC | {"resources": {"gpus": gpus}})
    evaluated = EvaluateResult(measurements=MEASUREMENTS, levels=LEVELS, gates=[], passed=True, rows=50, tokens=500)
    found = recommendation(spec, artifacts(*formats), evaluated)
    assert found.format == chosen
    assert says in found.reason
    assert ("gptq needs a CPU with avx512f" in found.reason) == (chosen == "int8")


def test_bf16_is_the_tuned_model() -> None:
    assert {item.format: item.perplexity for item in artifacts(*ALL)} == {"bf16": 5.0, "int8": 5.1, "gptq": 5.4}


@pytest.fixture
def release() -> Release:
    gates = [gate("tuned", True), gate("gptq", False)]
    return Release(
        name="support-bot",
        spec=FineTuneJobSpec.model_validate(SPEC),
        digests=dict.fromkeys(STAGES, "d" * 64),
        artifacts=artifacts(*ALL),
        recommended=recommend(artifacts(*ALL), gates),
        evaluation=EvaluateResult(
            measurements=MEASUREMENTS, levels=LEVELS, gates=gates, passed=True, rows=50, tokens=500
        ),
        dataset=DatasetSummary(rows_in=1200, rows_kept=1150, dropped={"duplicate": 50}, tokens=98765, digest=DIGEST),
        training=TrainingStatus(
            steps=40,
            micro_batch_size=4,
            kept_step=30,
            loss=1.2,
            verdict="Overfitting after step 30.",
            curve=[CurvePoint(step=30, loss=1.3, validation_loss=1.2345678)],
            tensorboard_uri="s3://out/tensorboard",
            mlflow=MlflowStatus(url="https://mlflow.example/#/experiments/1/runs/a", run_id="a"),
        ),
    )


def test_model_card(release: Release) -> None:
    card = render_model_card(release)
    for words in (
        "s3://models/a",
        "qlora",
        "1,150 of 1,200",
        "98,765",
        "1.235",
        "Trained 40 steps of 16 rows, 4 at a time on a device; the adapter is that of step 30. Overfitting after",
        "The run in MLflow: https://mlflow.example/#/experiments/1/runs/a",
        "Event files for TensorBoard: `s3://out/tensorboard`",
        "**int8**",
        "| gptq | perplexity |",
        f"s3://out/runs/{'d' * 64}/prepare/report.html",
    ):
        assert words in card
    example = yaml.safe_load(card.split("```yaml\n")[1].split("```")[0])
    served = ModelServerSpec.model_validate(example["spec"]).model.fine_tune_job_ref
    assert served is not None
    assert served.name == "support-bot"


def test_report_of_a_release(release: Release) -> None:
    report = PublishReport.of(release)
    merged, _, gptq = report.artifacts
    assert (merged.perplexity, merged.memory_bytes, merged.tokens_per_second, merged.kl) == (5.0, 900, 12.5, None)
    assert (gptq.kl, gptq.changed_top1) == (0.01, 0.02)
    assert [item.format for item in report.artifacts] == list(ALL)
    assert report.recommended and report.evaluation
    assert (report.recommended.format, report.evaluation.gates_failed) == ("int8", 1)


def test_summary_of_a_local_run(release: Release) -> None:
    text = summary(release, "s3://out/release.json")
    assert "int8         170.0      5.1000  " + DIGEST in text
    assert f'{{uri: s3://out/int8, digest: "{DIGEST}"}}' in text
    assert "Release: s3://out/release.json" in text
