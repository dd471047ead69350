"""The PodDisruptionBudget of a ModelServer."""

from support.builders import OLD
from support.serving import kinds, serving


def test_several_replicas_have_a_budget() -> None:
    cluster = serving().change(replicas=2)
    step = cluster.step(60)
    assert "PodDisruptionBudget" in kinds(step)
    (budget,) = cluster.of_kind("PodDisruptionBudget")
    assert budget["spec"]["maxUnavailable"] == 1
    assert budget["spec"]["selector"]["matchLabels"].items() <= cluster.pod_of(OLD)["metadata"]["labels"].items()
    assert "PodDisruptionBudget" not in kinds(cluster.step(90)), "nothing is written at rest"
    budget["spec"]["maxUnavailable"] = 5
    assert "PodDisruptionBudget" in kinds(cluster.step(120))


def test_one_replica_has_none() -> None:
    assert serving().of_kind("PodDisruptionBudget") == []
