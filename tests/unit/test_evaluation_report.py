"""The page of the evaluation."""

import base64
import re

import pytest

from support.pages import Page
from tuneyard_api.contracts.results import EvaluateResult, ExportedArtifact, Level
from tuneyard_api.kinds.finetunejob_status import CurvePoint, Fidelity, GateStatus, Measurement, TrainingStatus
from tuneyard_trainer.reports.evaluation import ComparedAnswers, EvaluationDocument, render_html

DIGEST = "sha256:" + "a" * 64
PERPLEXITY = {"base": 20.0, "tuned": 5.0, "int8": 5.1}
RESULT = EvaluateResult(
    measurements=[Measurement(subject=name, metric="perplexity", value=value) for name, value in PERPLEXITY.items()],
    gates=[
        GateStatus(metric="perplexity", against="base", subject="tuned", value=5.0, limit=20.0, passed=True),
        GateStatus(metric="perplexity", against="tuned", subject="int8", value=5.1, limit=5.05, passed=False),
    ],
    passed=True,
    rows=200,
    tokens=12345,
)
ARTIFACTS = [
    ExportedArtifact(format="bf16", uri="s3://out/bf16", digest=DIGEST, size_bytes=300_000_000),
    ExportedArtifact(
        format="int8",
        uri="s3://out/int8",
        digest=DIGEST,
        size_bytes=170_000_000,
        notes=["The <head> stays."],
        fidelity=Fidelity(kl=0.01234, changed_top1=0.025, logits_error=0.1),
    ),
]
TRAINING = TrainingStatus(
    steps=40,
    kept_step=30,
    verdict="Overfitting after step 30.",
    curve=[
        CurvePoint(step=0, validation_loss=3.0),
        CurvePoint(step=30, loss=1.5, validation_loss=1.25),
        CurvePoint(step=40, loss=1.0, validation_loss=1.5),
    ],
)


@pytest.fixture(scope="module")
def html() -> str:
    return render_html(EvaluationDocument.of("a<b", "d" * 64, RESULT, ARTIFACTS, TRAINING))


def test_the_page_is_complete_and_accessible(html: str) -> None:
    page = Page.of(html)
    assert page.defects() == []
    assert len(page.images) == 2


@pytest.mark.parametrize(
    "row",
    [
        ["tuned", "passed", "perplexity against base", "5.0000", "20.0000"],
        ["int8", "failed", "perplexity against tuned", "5.1000", "5.0500"],
        ["base", "20.0000", ""],
        ["int8", "5.1000", "-74.5 %"],
        ["bf16", "300.0", "5", "", "", DIGEST],
        ["int8", "170.0", "5.1", "0.01234", "2.5 %", f"{DIGEST}The <head> stays."],
        ["0", "", "3"],
        ["30", "1.5", "1.25"],
    ],
    ids=lambda row: f"{row[0]} {row[1]}",
)
def test_tables(html: str, row: list[str]) -> None:
    assert row in Page.of(html).rows


def test_text(html: str) -> None:
    assert '<strong class="passed">passed</strong>. Measured over 12,345 answer tokens of 200 rows' in html
    assert "<h1>Evaluation of a&lt;b</h1>" in html
    assert "a<b" not in html
    assert "Lower is better." in html
    assert "40 steps; the adapter is that of step 30. Overfitting after step 30." in html


def test_plots_say_what_they_show(html: str) -> None:
    values, curve = (base64.b64decode(data).decode() for data in re.findall(r'svg\+xml;base64,([^"]+)"', html))
    for label in ("base", "tuned", "int8", "5.1"):
        assert f">{label}</text>" in values
    for label in ("training loss", "validation loss", "kept: 30", "step"):
        assert f">{label}</text>" in curve


def level(subject: str, megabytes: int, perplexity: float) -> Level:
    return Level(subject=subject, size_bytes=megabytes * 10**6, perplexity=perplexity)


def labels(levels: list[Level]) -> list[str]:
    """The texts of the plot of size and quality."""
    result = RESULT.model_copy(update={"levels": levels})
    plot = EvaluationDocument.of("bot", "d" * 64, result, [], None).levels_plot
    svg = base64.b64decode(plot.partition("base64,")[2]).decode()
    return re.findall(r">([^<>]+)</text>", svg)


def test_size_and_quality() -> None:
    """What can be served instead of each other: the base model is not among it where it was tuned."""
    levels = [level("base", 270, 20.0), level("tuned", 271, 5.0), level("int8", 140, 5.1)]
    shown = labels(levels)
    assert {"tuned", "int8", "perplexity", "MB on disk"} <= set(shown)
    assert "base" not in shown
    assert {"base", "int8"} <= set(labels([levels[0], levels[2]]))
    assert labels(levels[:2]) == [], "one point compares nothing"
    result = RESULT.model_copy(update={"levels": levels})
    page = Page.of(render_html(EvaluationDocument.of("bot", "d" * 64, result, ARTIFACTS, TRAINING)))
    assert page.defects() == []
    assert len(page.images) == 3


def test_answers_stand_side_by_side() -> None:
    answers = ComparedAnswers(question="What is <b>?", wanted="A tag.", answers={"base": "I see.", "tuned": "A <tag>."})
    html = render_html(EvaluationDocument.of("bot", "d" * 64, RESULT, ARTIFACTS, TRAINING, [answers]))
    assert Page.of(html).defects() == []
    assert "<pre>What is &lt;b&gt;?</pre>" in html
    boxes = re.findall(r'<section class="box"><h4>(\w+)</h4>(.*)</section>', html)
    assert boxes == [("wanted", "A tag."), ("base", "I see."), ("tuned", "A &lt;tag&gt;.")]


def test_without_training_and_gates() -> None:
    bare = RESULT.model_copy(update={"gates": []})
    html = render_html(EvaluationDocument.of("support-bot", "d" * 64, bare, [], None))
    assert Page.of(html).defects() == []
    assert "No gates are set." in html
    assert "<h2>Training" not in html
    assert "<h2>Artifacts" not in html
    assert "<h2>Answers" not in html
