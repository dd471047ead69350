"""An upgrade of the operator is rolled out to a few ModelServers at a time."""

from typing import Any

import pytest

from support.builders import NEW, OLD, SETTINGS, artifact, model_server
from support.serving import Serving
from tuneyard_operator.machinery.objects import Json, Key, condition, key_of
from tuneyard_operator.modelserver import turns

UPGRADED = SETTINGS.model_copy(update={"server_image": "server:2", "max_concurrent_rollouts": 2})


class Fleet(Serving):
    """Several ModelServers in one cluster; the operator reconciles the one that `key` names."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.keys = [self.key]
        for number in range(1, count):
            other = model_server(artifact(OLD))
            other["metadata"] |= {"name": f"bot-{number}", "uid": f"uid-bot-{number}"}
            self.keys.append(key_of(self.create(other)))

    def reconcile_all(self) -> None:
        for key in self.keys:
            self.key = key
            self.reconcile()

    def work(self, rounds: int) -> list[int]:
        """How many ModelServers rolled out, round by round."""
        seen = []
        for _ in range(rounds):
            self.reconcile_all()
            self.controllers_run()
            self.wait(15)
            seen.append(len(self.with_reason("RollingOut")))
        return seen

    def with_reason(self, reason: str) -> list[Key]:
        return [key for key in self.keys if condition(self.objects[key], "Progressing").get("reason") == reason]

    def images(self) -> list[Any]:
        return sorted(item["spec"]["template"]["spec"]["initContainers"][0]["image"] for item in self.deployments)


@pytest.fixture
def fleet() -> Fleet:
    found = Fleet(7)
    found.work(8)
    assert len(found.with_reason("Completed")) == 7
    return found


@pytest.mark.lifecycle("server-image-changed")
def test_upgrade_is_rolled_out_a_few_at_a_time(fleet: Fleet) -> None:
    fleet.settings = UPGRADED
    fleet.reconcile_all()
    assert len(fleet.with_reason("WaitingForTurn")) == 7, "first all get in line"
    seen = fleet.work(40)
    assert max(seen) == 2
    assert fleet.images() == ["server:2"] * 7
    assert len(fleet.with_reason("Completed")) == 7


def test_change_of_a_server_does_not_wait(fleet: Fleet) -> None:
    fleet.settings = UPGRADED.model_copy(update={"max_concurrent_rollouts": 1})
    fleet.reconcile_all()
    last = fleet.objects[fleet.keys[-1]]
    last["spec"]["model"] = artifact(NEW)
    fleet.key = fleet.keys[-1]
    fleet.reconcile()
    assert condition(last, "Progressing")["reason"] == "RollingOut"


def test_waiting_server_serves_and_says_why(fleet: Fleet) -> None:
    fleet.settings = UPGRADED
    fleet.reconcile_all()
    server = fleet.objects[fleet.keys[-1]]
    assert (condition(server, "Available")["status"], server["status"]["reason"]) == ("True", "WaitingForTurn")
    assert "maxConcurrentRollouts" in condition(server, "Progressing")["message"]


def test_failed_upgrades_do_not_block_the_others(fleet: Fleet) -> None:
    fleet.settings = UPGRADED
    fleet.kubelet.broken[OLD] = "ArtifactNotFound"
    fleet.work(60)
    assert fleet.with_reason("WaitingForTurn") == []
    assert len(fleet.kubelet.ready()) == 7, "the old revisions serve"


def test_turn_follows_from_the_statuses(fleet: Fleet) -> None:
    fleet.settings = UPGRADED
    fleet.reconcile_all()
    servers: list[Json] = [fleet.objects[key] for key in fleet.keys]
    fleet.sync()
    assert [turns.turn(server, fleet.cache) for server in servers] == list(range(7))
