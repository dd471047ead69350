"""Gates and the report."""

from xml.etree import ElementTree

import pytest

from tuneyard_api.kinds.finetunejob import Evaluation, gate
from tuneyard_trainer.gates import judge, perplexity
from tuneyard_trainer.reports.evaluation import bars, render_html

BETTER = gate("base", maxRatio=0.7)
CLOSE = gate("tuned", maxRatio=1.1)


def test_perplexity() -> None:
    assert perplexity(0.0, 10) == 1.0
    assert perplexity(23.02585, 10) == pytest.approx(10.0, rel=1e-5)
    assert perplexity(1e9, 1) < float("inf")


@pytest.mark.parametrize(
    ("measured", "formats", "passed", "failing"),
    [
        ({"base": 10, "tuned": 6.9, "int8": 7.0, "gptq": 7.5}, ["bf16", "int8", "gptq"], True, set()),
        ({"base": 10, "tuned": 7.0}, ["bf16"], True, set()),  # a limit may be reached
        ({"base": 10, "tuned": 7.1}, ["bf16"], False, {"tuned"}),
        # One format that lost too much is not recommended, and that is all ...
        ({"base": 10, "tuned": 5, "int8": 5.1, "gptq": 6}, ["bf16", "int8", "gptq"], True, {"gptq"}),
        ({"base": 10, "tuned": 5, "gptq": 6}, ["bf16", "gptq"], True, {"gptq"}),
        # ... unless there is no other.
        ({"base": 10, "tuned": 5, "gptq": 6}, ["gptq"], False, {"gptq"}),
        ({"base": 10, "tuned": 5, "int8": 6, "gptq": 6}, ["int8", "gptq"], False, {"int8", "gptq"}),
    ],
)
def test_judge(measured: dict[str, float], formats: list[str], passed: bool, failing: set[str]) -> None:
    verdict = judge([BETTER, CLOSE], measured, formats)
    assert verdict.passed is passed
    assert {status.subject for status in verdict.gates if not status.passed} == failing


def test_a_failed_gate_is_explained_with_its_numbers() -> None:
    verdict = judge([BETTER], {"base": 10.0, "tuned": 9.0}, ["bf16"])
    assert verdict.failure == "perplexity of tuned is 9, the gate against base allows 7"


def test_without_gates_everything_passes() -> None:
    assert judge([], {"base": 1, "tuned": 9, "gptq": 99}, ["gptq"]).passed


def test_the_default_gates_judge_every_model() -> None:
    verdict = judge(Evaluation().gates, {"base": 10, "tuned": 9, "int8": 9.1}, ["bf16", "int8"])
    assert [(status.subject, status.against) for status in verdict.gates] == [("tuned", "base"), ("int8", "tuned")]


REPORT = {
    "name": "a<b",
    "digest": "0123",
    "rows": 64,
    "tokens": 4321,
    "perplexity": {"base": 20.0, "tuned": 5.0, "int8": 5.1},
    "gates": [
        {"metric": "perplexity", "against": "base", "subject": "tuned", "value": 5.0, "limit": 14.0, "passed": True},
        {"metric": "perplexity", "against": "tuned", "subject": "int8", "value": 5.1, "limit": 5.0, "passed": False},
    ],
    "passed": True,
}


def test_the_report_says_it_all_and_needs_no_other_file() -> None:
    page = render_html(REPORT)
    for text in ("a&lt;b", "20.0000", "-75.0 %", "14.0000", "4321", 'class="failed">failed', "0123"):
        assert text in page
    assert "http" not in page.replace("<!doctype html>", "")
    assert "a<b" not in page


def test_a_report_without_gates() -> None:
    assert "No gates are set" in render_html(REPORT | {"gates": []})


def test_bars_are_drawn_to_scale() -> None:
    drawing = ElementTree.fromstring(bars({"base": 20.0, "tuned": 5.0}))  # noqa: S314 - our own text
    widths = [float(bar.attrib["width"]) for bar in drawing.findall("rect")]
    assert widths == [520.0, 130.0]
