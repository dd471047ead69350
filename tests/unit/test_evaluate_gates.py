"""Metrics, gates and the evaluation report."""

import pytest

from tuneyard_api.contracts.requests import Score
from tuneyard_api.kinds.finetunejob import TUNED_GATES, UNTUNED_GATES, gate
from tuneyard_api.kinds.finetunejob_status import Measurement
from tuneyard_trainer.gates import judge
from tuneyard_trainer.metrics import measure

BETTER = gate("base", maxRatio=0.7)
CLOSE = gate("tuned", maxRatio=1.1)


def measurements(perplexity: dict[str, float]) -> list[Measurement]:
    return [Measurement(subject=name, metric="perplexity", value=value) for name, value in perplexity.items()]


def test_perplexity() -> None:
    scores = {
        "base": Score(nll=0.0, tokens=10),
        "tuned": Score(nll=23.02585, tokens=10),
        "int8": Score(nll=1e9, tokens=1),
    }
    base, tuned, int8 = measure(scores)
    assert (base.subject, base.metric, base.value) == ("base", "perplexity", 1.0)
    assert tuned.value == pytest.approx(10.0, rel=1e-5)
    assert int8.value < float("inf")


@pytest.mark.parametrize(
    ("measured", "formats", "passed", "failing"),
    [
        ({"base": 10, "tuned": 6.9, "int8": 7.0, "gptq": 7.5}, ["bf16", "int8", "gptq"], True, set()),
        ({"base": 10, "tuned": 7.0}, ["bf16"], True, set()),  # a limit may be reached
        ({"base": 10, "tuned": 7.1}, ["bf16"], False, {"tuned"}),
        # A format that lost too much is not recommended, but the others are ...
        ({"base": 10, "tuned": 5, "int8": 5.1, "gptq": 6}, ["bf16", "int8", "gptq"], True, {"gptq"}),
        ({"base": 10, "tuned": 5, "gptq": 6}, ["bf16", "gptq"], True, {"gptq"}),
        # ... if there are others.
        ({"base": 10, "tuned": 5, "gptq": 6}, ["gptq"], False, {"gptq"}),
        ({"base": 10, "tuned": 5, "int8": 6, "gptq": 6}, ["int8", "gptq"], False, {"int8", "gptq"}),
    ],
)
def test_judge(measured: dict[str, float], formats: list[str], passed: bool, failing: set[str]) -> None:
    verdict = judge([BETTER, CLOSE], measurements(measured), formats)
    assert verdict.passed is passed
    assert {status.subject for status in verdict.gates if not status.passed} == failing


def test_failure_names_its_numbers() -> None:
    verdict = judge([BETTER], measurements({"base": 10.0, "tuned": 9.0}), ["bf16"])
    assert verdict.failure == "perplexity of tuned is 9, the gate against base allows 7"


def test_no_gates() -> None:
    assert judge([], measurements({"base": 1, "tuned": 9, "gptq": 99}), ["gptq"]).passed


def test_default_gates() -> None:
    verdict = judge(TUNED_GATES, measurements({"base": 10, "tuned": 9, "int8": 9.1}), ["bf16", "int8"])
    assert [(status.subject, status.against) for status in verdict.gates] == [("tuned", "base"), ("int8", "tuned")]


def test_gates_of_a_model_that_is_not_tuned() -> None:
    """Against base is then about each artifact; one that fails only keeps itself out."""
    verdict = judge(UNTUNED_GATES, measurements({"base": 10, "int8": 10.5, "gptq": 12}), ["bf16", "int8", "gptq"])
    assert {status.subject: status.passed for status in verdict.gates} == {"int8": True, "gptq": False}
    assert verdict.passed
    assert not judge(UNTUNED_GATES, measurements({"base": 10, "gptq": 12}), ["gptq"]).passed
