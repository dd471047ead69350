"""A new rollout strategy is one module and one line of the registry, a new engine one line of the registry."""

import json
import sys
from types import SimpleNamespace

import pytest

from support.builders import NEW, NEWEST, SETTINGS, artifact
from support.kubelet import digest
from support.serving import Serving
from tuneyard_api import registry
from tuneyard_api.kinds.modelserver import RolloutStatus
from tuneyard_operator.machinery.conditions import parse_time, timestamp
from tuneyard_operator.machinery.objects import Json, condition, condition_in, is_condition_true
from tuneyard_operator.machinery.plan import Plan
from tuneyard_operator.modelserver import strategies
from tuneyard_operator.modelserver.strategies import strategy_of, surge
from tuneyard_operator.modelserver.strategies.situation import Decision, Situation


def recreate(situation: Situation) -> Decision:
    """Stops the pods of the old revision, pauses for two minutes, and starts the new one."""
    target, serving = situation.target, situation.serving
    if target is None:
        return Decision({}, {})
    if serving in (None, target):
        return Decision({target: 100}, {target: situation.replicas})
    old = {name: 0 for name in situation.revisions if name != target}
    if any(situation.revisions[name].existing for name in old):
        return Decision({str(serving): 100}, old, state(situation, "Stopping"))
    if situation.state and situation.state.phase == "Starting":
        return Decision({target: 100}, {target: situation.replicas}, situation.state)
    paused = state(situation, "Paused")
    seconds = 120 - (situation.now - parse_time(str(paused.since))).total_seconds()
    if seconds > 0:
        return Decision({str(serving): 100}, old, paused, requeue_after=seconds)
    return Decision({target: 100}, {target: situation.replicas}, state(situation, "Starting"))


def state(situation: Situation, phase: str) -> RolloutStatus:
    """The stored state, or a new one where another phase begins."""
    if situation.state and situation.state.phase == phase:
        return situation.state
    return RolloutStatus(revision=str(situation.target), phase=phase, since=timestamp(situation.now))


def reconcile(cluster: Serving) -> Plan:
    step = cluster.reconcile()
    cluster.controllers_run()
    return step


def digests_of_pods(cluster: Serving) -> set[str]:
    return {digest(pod) for item in cluster.deployments for pod in cluster.deployment_controller.pods_of(item)}


@pytest.fixture
def recreating(monkeypatch: pytest.MonkeyPatch) -> Serving:
    """A ModelServer that serves its first revision, with the strategy Recreate."""
    monkeypatch.setitem(registry.STRATEGIES, "Recreate", registry.Strategy("the old revision is stopped first"))
    monkeypatch.setitem(sys.modules, f"{strategies.__name__}.recreate", SimpleNamespace(decide=recreate))
    cluster = Serving()
    cluster.change(rollout={"strategy": "Recreate"})
    for _ in range(10):
        reconcile(cluster)
    assert is_condition_true(cluster.server, "Available")
    assert "rollout" not in cluster.server["status"]
    return cluster


def test_strategy_from_one_module(recreating: Serving) -> None:
    cluster = recreating
    cluster.change(model=artifact(NEW))
    phases: list[str] = []
    for _ in range(40):
        step = reconcile(cluster)
        phases.append(step.status.get("rollout", {}).get("phase", ""))
        assert len(digests_of_pods(cluster)) <= 1, "the revisions run one after the other"
        cluster.wait(step.requeue_after or 0)
    assert list(dict.fromkeys(phases)) == ["Stopping", "Paused", "Starting", ""]
    assert digests_of_pods(cluster) == {NEW}
    assert cluster.server["status"]["served"]["digest"] == NEW
    assert condition(cluster.server, "Progressing")["reason"] == "Completed"


def test_state_of_a_strategy_belongs_to_one_target(recreating: Serving) -> None:
    cluster = recreating
    cluster.change(model=artifact(NEW))
    for _ in range(4):
        reconcile(cluster)
    first = cluster.server["status"]["rollout"]
    assert first["phase"] == "Paused"
    cluster.change(vllm={"maxModelLen": 1})  # a spec that cannot be read
    reconcile(cluster)
    assert cluster.server["status"]["rollout"] == first
    cluster.wait(60)
    cluster.change(model=artifact(NEWEST), vllm={})
    reconcile(cluster)
    second = cluster.server["status"]["rollout"]
    assert second["revision"] != first["revision"]
    assert second["since"] == timestamp(cluster.now)


@pytest.mark.parametrize(
    ("traffic", "message"),
    [
        ({"a": 60, "b": 30}, "must sum to 100"),
        ({"a": 120, "b": -20}, "must sum to 100"),
        ({"a": 90, "b": 10}, "a Service sends all of it to one revision"),
    ],
)
def test_weights_that_cannot_be_applied(traffic: dict[str, int], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surge, "decide", lambda _: Decision(traffic, {}))
    with pytest.raises(ValueError, match=message):
        Serving().dry_run()


def test_strategy_asks_for_a_requeue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surge, "decide", lambda _: Decision({}, {}, requeue_after=3))
    assert Serving().dry_run().requeue_after == 3


def test_every_registered_strategy_is_implemented() -> None:
    assert all(callable(strategy_of(name)) for name in registry.STRATEGIES)


def test_engine_from_one_registry_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.ENGINES, "llama-cpp", registry.Engine("llama.cpp", image="llama"))
    settings = SETTINGS.model_copy(update={"images": {"llama": "llama:1"}})
    cluster = Serving(engine="llama-cpp")
    cluster.settings = settings
    children = cluster.dry_run().apply
    pod: Json = next(child for child in children if child["kind"] == "Deployment")["spec"]["template"]["spec"]
    containers = {container["name"]: container for container in pod["containers"]}
    assert containers["engine"]["image"] == "llama:1"
    assert json.loads(containers["engine"]["command"][3])["engine"] == "llama-cpp"
    assert containers["proxy"]["command"][2:4] == ["--engine", "llama-cpp"]


def test_engine_without_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.ENGINES, "llama-cpp", registry.Engine("llama.cpp", image="llama"))
    step = Serving(engine="llama-cpp").dry_run()
    assert step.apply == []
    progressing = condition_in(step.status["conditions"], "Progressing")
    assert progressing["reason"] == "ImageNotConfigured"
    assert "llama" in progressing["message"]
