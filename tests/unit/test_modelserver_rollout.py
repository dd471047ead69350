"""Rollouts where there is no room for two revisions, and what is tried again."""

from copy import deepcopy
from typing import Any

import pytest

from support.builders import NEW, NEWEST, OLD
from support.kubelet import digest
from support.rollouts import message, reason, running, served_with, work
from support.serving import Serving
from tuneyard_api import names
from tuneyard_operator.machinery.objects import condition, is_condition_true, is_deleting
from tuneyard_operator.modelserver.artifact import release_of


class TestAuto:
    @pytest.mark.lifecycle("room-is-made")
    def test_old_revision_makes_room_on_one_gpu(self) -> None:
        cluster = served_with(1)
        cluster.wants(NEW)
        work(cluster, 15)
        assert running(cluster) == [OLD], "first it waits whether there is room"
        assert (reason(cluster), cluster.server["status"]["served"]["digest"]) == ("Unschedulable", OLD)
        work(cluster, 60, until=lambda: running(cluster) == [])
        cluster.reconcile()
        assert condition(cluster.server, "Available")["reason"] == "MakingRoom"
        assert any(event.startswith("MakingRoom: ") for event in cluster.events)
        work(cluster, 30)
        assert running(cluster) == [NEW]
        assert cluster.server["status"]["served"]["digest"] == NEW
        assert (reason(cluster), len(cluster.deployments)) == ("", 1)

    def test_there_and_back_ten_times(self) -> None:
        cluster = served_with(1)
        for wanted in [NEW, OLD] * 5:
            cluster.wants(wanted)
            work(cluster, 90)
            assert running(cluster) == [wanted]

    def test_surges_where_there_is_room(self) -> None:
        cluster = served_with(2)
        cluster.wants(NEW)
        for _ in range(12):
            work(cluster, 5)
            assert running(cluster), "there is always a pod that serves"
        assert running(cluster) == [NEW]

    def test_pods_that_are_ending_are_waited_for(self) -> None:
        """On two GPUs the pod of the revision before may still drain its streams."""
        cluster = served_with(2)
        older = deepcopy(cluster.pod_of(OLD))
        labels = older["metadata"]["labels"] | {names.LABEL_REVISION: "older"}
        older["metadata"] |= {"name": "bot-older", "labels": labels, "ownerReferences": []}
        cluster.kubelet.lingers = True
        cluster.delete(cluster.create(older))
        cluster.wants(NEW)
        work(cluster, 90)
        assert running(cluster) == [OLD], "the revision that serves is not taken down for it"
        assert "still ending" in message(cluster, "Progressing")
        cluster.kubelet.lingers, cluster.kubelet.gpus = False, 1
        work(cluster, 10)
        assert running(cluster) == [OLD], "the scheduler takes some seconds to see that they are gone"
        cluster.kubelet.gpus = 2
        for _ in range(12):
            work(cluster, 5)
            assert running(cluster)
        assert running(cluster) == [NEW]

    def test_half_of_the_replicas_stay(self) -> None:
        cluster = served_with(4, replicas=4)
        cluster.wants(NEW)
        for _ in range(40):
            work(cluster, 5)
            selected = [
                pod for pod in cluster.kubelet.ready() if pod["metadata"]["labels"].items() >= _selector(cluster)
            ]
            assert len(selected) >= 2
        assert running(cluster) == [NEW] * 4

    def test_one_of_two_replicas_serves(self) -> None:
        cluster = served_with(2, replicas=2)
        cluster.wants(NEW)
        for _ in range(40):
            work(cluster, 5)
            assert any(pod["metadata"]["labels"].items() >= _selector(cluster) for pod in cluster.kubelet.ready())
        assert running(cluster) == [NEW, NEW]

    @pytest.mark.lifecycle("no-room-and-min-available")
    def test_min_available_keeps_it_up(self) -> None:
        cluster = served_with(1, rollout={"minAvailable": 1})
        cluster.wants(NEW)
        work(cluster, 120)
        assert running(cluster) == [OLD]
        assert "rollout.minAvailable is 1" in message(cluster, "Progressing")
        assert reason(cluster) == "Unschedulable"
        work(cluster, 1200)
        assert condition(cluster.server, "Degraded")["reason"] == "ProgressDeadlineExceeded"
        assert running(cluster) == [OLD] and len(cluster.deployments) == 2, "the new pod still waits"
        cluster.kubelet.gpus = 2
        work(cluster, 60)
        assert running(cluster) == [NEW], "and starts when there is room"
        assert "Degraded" not in str(cluster.server["status"]["conditions"])

    @pytest.mark.lifecycle("room-is-made-in-vain")
    @pytest.mark.parametrize("broken", ["fetch", "engine", "image"])
    def test_old_revision_comes_back(self, broken: str) -> None:
        cluster = served_with(1)
        cluster.wants(NEW)
        if broken == "fetch":
            cluster.kubelet.broken[NEW] = "ArtifactCorrupt"
        work(cluster, 60, until=lambda: running(cluster) == [])
        cluster.kubelet.engine_works = broken != "engine"
        cluster.kubelet.registry_answers = broken != "image"
        work(cluster, 200, until=lambda: "failed" in cluster.server["status"])
        cluster.kubelet.engine_works = cluster.kubelet.registry_answers = True
        work(cluster, 60)
        assert running(cluster) == [OLD]
        expected = {"fetch": "ArtifactCorrupt", "engine": "EngineCrashed", "image": "ImagePullBackOff"}[broken]
        assert reason(cluster) == cluster.server["status"]["failed"]["reason"] == expected
        assert "kubectl tuneyard retry bot" in message(cluster, "Degraded")
        assert is_condition_true(cluster.server, "Available")
        before = list(cluster.events)
        work(cluster, 600)
        assert (running(cluster), cluster.events) == ([OLD], before), "it is not tried again by itself"

    def test_old_revision_comes_back_where_it_made_no_room(self) -> None:
        cluster = served_with(1)
        cluster.wants(NEW)
        work(cluster, 60, until=lambda: running(cluster) == [])
        cluster.kubelet.gpus = 0  # somebody else was faster
        work(cluster, 120, until=lambda: cluster.server["status"].get("rollout", {}).get("phase") == "NoRoom")
        cluster.kubelet.gpus = 1
        while running(cluster) != [OLD] and running(cluster) != [NEW]:
            work(cluster, 5)
        assert "it is back" in message(cluster, "Progressing") or running(cluster) == [NEW]

    def test_streams_that_end_late_make_room_all_the_same(self) -> None:
        """The time counts from when the pods of the old revision are gone."""
        cluster = served_with(1)
        cluster.kubelet.lingers = True
        cluster.wants(NEW)
        work(cluster, 120)
        assert cluster.server["status"]["rollout"]["phase"] == "MakingRoom"
        cluster.kubelet.lingers, cluster.kubelet.gpus = False, 0
        work(cluster, 30)
        assert cluster.server["status"]["rollout"]["phase"] == "RoomMade", "the scheduler takes some seconds"
        cluster.kubelet.gpus = 1
        work(cluster, 30)
        assert running(cluster) == [NEW]
        assert not any("it is back" in event for event in cluster.events)

    def test_pod_that_fits_nowhere_costs_nothing(self) -> None:
        """A node selector that no node has: room would not help."""
        cluster = served_with(1)
        cluster.kubelet.why_unscheduled = (
            "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."
        )
        cluster.wants(NEW)
        work(cluster, 300)
        assert running(cluster) == [OLD]
        assert "node affinity" in message(cluster, "Progressing")
        work(cluster, 900)
        assert condition(cluster.server, "Degraded")["reason"] == "ProgressDeadlineExceeded"
        assert running(cluster) == [OLD]

    def test_quota_of_one_gpu_counts_as_no_room(self) -> None:
        cluster = served_with(1)
        cluster.deployment_controller.quota = 1
        cluster.wants(NEW)
        work(cluster, 120)
        assert running(cluster) == [NEW]

    def test_spec_that_changes_meanwhile(self) -> None:
        cluster = served_with(1)
        cluster.wants(NEW)
        work(cluster, 60, until=lambda: running(cluster) == [])
        cluster.wants(NEWEST)
        work(cluster, 120)
        assert running(cluster) == [NEWEST]
        assert any(event.startswith("Superseded: ") for event in cluster.events)

    def test_status_that_is_lost_meanwhile(self) -> None:
        cluster = served_with(1)
        cluster.wants(NEW)
        work(cluster, 60, until=lambda: running(cluster) == [])
        cluster.server.pop("status")
        work(cluster, 120)
        assert running(cluster) == [NEW]


class TestSurge:
    @pytest.mark.lifecycle("no-room-to-surge")
    def test_waits_for_room(self) -> None:
        cluster = served_with(1, rollout={"strategy": "Surge"})
        cluster.wants(NEW)
        work(cluster, 1200)
        assert running(cluster) == [OLD]
        assert condition(cluster.server, "Degraded")["reason"] == "ProgressDeadlineExceeded"
        assert len(cluster.deployments) == 2, "it goes on waiting"
        cluster.kubelet.gpus = 2
        work(cluster, 60)
        assert running(cluster) == [NEW]

    def test_message_names_the_other_strategy(self) -> None:
        cluster = served_with(1, rollout={"strategy": "Surge"})
        cluster.wants(NEW)
        work(cluster, 30)
        assert "rollout.strategy: Auto" in message(cluster, "Progressing")


class TestRecreate:
    @pytest.mark.lifecycle("recreate")
    def test_revisions_run_one_after_the_other(self) -> None:
        cluster = served_with(2, rollout={"strategy": "Recreate"})
        cluster.wants(NEW)
        for _ in range(12):
            work(cluster, 5)
            assert len({digest(pod) for pod in cluster.of_kind("Pod")}) <= 1
        assert running(cluster) == [NEW]

    def test_old_revision_comes_back(self) -> None:
        cluster = served_with(1, rollout={"strategy": "Recreate"})
        cluster.kubelet.broken[NEW] = "ArtifactCorrupt"
        cluster.wants(NEW)
        work(cluster, 120)
        assert running(cluster) == [OLD]
        assert reason(cluster) == "ArtifactCorrupt"

    def test_old_revision_comes_back_where_there_is_no_room(self) -> None:
        cluster = served_with(1, rollout={"strategy": "Recreate"})
        cluster.wants(NEW)
        work(cluster, 60, until=lambda: running(cluster) == [])
        cluster.kubelet.gpus = 0
        work(cluster, 200, until=lambda: "failed" in cluster.server["status"])
        cluster.kubelet.gpus = 1
        work(cluster, 60)
        assert running(cluster) == [OLD]
        assert reason(cluster) == "Unschedulable"


def rolled_back() -> Serving:
    cluster = served_with(1)
    cluster.kubelet.broken[NEW] = "ArtifactCorrupt"
    cluster.wants(NEW)
    work(cluster, 120)
    assert running(cluster) == [OLD] and "failed" in cluster.server["status"]
    cluster.kubelet.broken.clear()
    return cluster


@pytest.mark.lifecycle("rolled-back-retried")
class TestRetry:
    def test_annotation(self) -> None:
        cluster = rolled_back()
        cluster.server["metadata"].setdefault("annotations", {})[names.ANNOTATION_RETRY] = "2026-11-26T12:00:00Z"
        work(cluster, 120)
        assert running(cluster) == [NEW]
        assert "failed" not in cluster.server["status"]

    def test_deadline(self) -> None:
        cluster = rolled_back().change(rollout={"progressDeadlineSeconds": 1800})
        work(cluster, 120)
        assert running(cluster) == [NEW]

    def test_options(self) -> None:
        cluster = rolled_back().change(vllm={"maxModelLen": 512})
        work(cluster, 120)
        assert running(cluster) == [NEW]

    def test_replicas_are_no_cause(self) -> None:
        """An autoscaler changes them all the time."""
        cluster = rolled_back()
        cluster.kubelet.gpus = 3
        cluster.change(replicas=2)
        work(cluster, 120)
        assert running(cluster) == [OLD, OLD]

    def test_failing_again_is_rolled_back_again(self) -> None:
        cluster = rolled_back()
        cluster.kubelet.broken[NEW] = "ArtifactNotFound"
        cluster.server["metadata"].setdefault("annotations", {})[names.ANNOTATION_RETRY] = "again"
        work(cluster, 200)
        assert running(cluster) == [OLD]
        assert reason(cluster) == "ArtifactNotFound"


class TestDeadline:
    def test_counts_from_when_the_pod_was_scheduled(self) -> None:
        """A pod that has waited for a GPU gets all of its time."""
        cluster = served_with(1, rollout={"minAvailable": 1, "progressDeadlineSeconds": 60})
        cluster.wants(NEW)
        work(cluster, 120)
        assert condition(cluster.server, "Degraded")["reason"] == "ProgressDeadlineExceeded"
        cluster.kubelet.gpus, cluster.kubelet.store_answers = 2, False
        work(cluster, 30)
        assert len(cluster.deployments) == 2, "it has not had its time"
        work(cluster, 90)
        assert [release_of(item).digest for item in cluster.deployments if not is_deleting(item)] == [OLD]


def _selector(cluster: Serving) -> Any:
    assert cluster.service
    return cluster.service["spec"]["selector"].items()


def test_recreate_takes_no_min_available() -> None:
    cluster = Serving(rollout={"strategy": "Recreate", "minAvailable": 1})
    step = cluster.dry_run()
    assert "spec.rollout.minAvailable: Recreate takes all replicas down" in str(step.status["conditions"])
