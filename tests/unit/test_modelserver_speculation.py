"""The acceptance of speculative decoding in the status of a ModelServer."""

from typing import Any

import pytest

from support.builders import OLD
from support.serving import Serving

SPECULATIVE = {"vllm": {"speculative": {"method": "ngram"}}}


def ready(**spec: Any) -> Serving:
    cluster = Serving(**spec)
    cluster.step(0)
    cluster.become_ready(OLD)
    return cluster


def answers(cluster: Serving, **report: int) -> None:
    """What the pod says of its guesses from now on."""
    cluster.progress[cluster.pod_of(OLD)["status"]["podIP"]] = report


def test_acceptance() -> None:
    cluster = ready(**SPECULATIVE)
    assert "speculative" not in cluster.step(5).status
    answers(cluster, drafted=0, accepted=0)
    assert "speculative" not in cluster.step(10).status, "nothing was guessed yet"
    answers(cluster, drafted=300, accepted=200)
    step = cluster.step(70)
    assert step.status["speculative"] == {"acceptance": 0.67}
    assert step.requeue_after == 60
    cluster.progress.clear()
    assert cluster.step(130).status["speculative"] == {"acceptance": 0.67}, "it stays while no pod answers"


def test_small_changes_are_not_written() -> None:
    cluster = ready(**SPECULATIVE)
    answers(cluster, drafted=300, accepted=200)
    first = cluster.step(70).status
    answers(cluster, drafted=302, accepted=201)
    assert cluster.step(130).status == first


@pytest.mark.parametrize("spec", [{}, {"vllm": {"maxModelLen": 512}}])
def test_others_are_not_asked(spec: dict[str, Any]) -> None:
    cluster = ready(**spec)
    answers(cluster, drafted=300, accepted=200)
    step = cluster.step(70)
    assert "speculative" not in step.status
    assert step.requeue_after is None


def test_it_goes_with_the_option() -> None:
    cluster = ready(**SPECULATIVE)
    answers(cluster, drafted=3, accepted=3)
    assert cluster.step(70).status["speculative"] == {"acceptance": 1.0}
    cluster.change(vllm={})
    assert "speculative" not in cluster.step(130).status
