"""What keeps the pods of a ModelServer from being created, and what ends in them."""

import pytest

from support.builders import NEW
from support.rollouts import message, reason, served_with, work
from support.serving import Serving
from tuneyard_operator.machinery.objects import condition, is_condition_true


class TestQuota:
    @pytest.mark.lifecycle("quota")
    def test_denied_pods_are_explained(self) -> None:
        cluster = Serving()
        cluster.deployment_controller.denial = (
            'pods "bot-1" is forbidden: failed quota: q: must specify limits.cpu for: proxy'
        )
        work(cluster, 30)
        assert reason(cluster) == "QuotaExceeded"
        for part in ("must specify limits.cpu for: proxy", "spec.containers (fetch, proxy)"):
            assert part in message(cluster, "Progressing")
        assert any(event.startswith("Waiting: ") and "spec.containers" in event for event in cluster.events)

    def test_is_tried_again_when_the_quota_changes(self) -> None:
        cluster = Serving()
        quota = cluster.create(
            {
                "apiVersion": "v1",
                "kind": "ResourceQuota",
                "metadata": {"name": "q", "namespace": "team"},
                "status": {"hard": {"limits.cpu": "1"}},
            }
        )
        cluster.deployment_controller.denial = 'pods "bot-1" is forbidden: exceeded quota: q, requested: limits.cpu=2'
        work(cluster, 30)
        (before,) = cluster.deployments
        nudged = dict(before["metadata"]["annotations"])
        work(cluster, 60)
        assert cluster.deployments[0]["metadata"]["annotations"] == nudged, "nothing has changed"
        quota["status"]["hard"]["limits.cpu"] = "4"
        cluster.sync()
        assert cluster.key in cluster.queue, "a quota for which nobody waits enqueues nobody"
        cluster.reconcile()
        assert cluster.deployments[0]["metadata"]["annotations"] != nudged

    @pytest.mark.parametrize(
        ("denial", "word", "advice"),
        [
            ("maximum cpu usage per Container is 2, but limit is 4", "LimitRange", "LimitRange"),
            ('admission webhook "p.example.org" denied the request: no', "AdmissionDenied", "p.example.org"),
            ('failed calling webhook "p.example.org": timeout', "AdmissionDenied", "p.example.org"),
            ("ValidatingAdmissionPolicy 'tags' with binding 'b' denied request: no", "AdmissionDenied", "tags"),
            ('violates PodSecurity "restricted:latest": runAsUser=0', "AdmissionDenied", "restricted"),
            ("no PriorityClass with name high was found", "FailedCreate", "PriorityClass with name high"),
            ('error looking up service account team/x: serviceaccount "x" not found', "FailedCreate", "serviceaccount"),
            ("something new", "FailedCreate", "tried again"),
        ],
    )
    def test_every_cause_has_advice(self, denial: str, word: str, advice: str) -> None:
        cluster = Serving()
        cluster.deployment_controller.denial = f'pods "bot-1" is forbidden: {denial}'
        work(cluster, 30)
        assert reason(cluster) == word
        assert advice in message(cluster, "Progressing").partition(denial)[2]


class TestEngineDies:
    @pytest.mark.lifecycle("engine-dies")
    def test_cause_is_reported_at_once(self) -> None:
        cluster = served_with(1)
        (pod,) = cluster.kubelet.ready()
        cluster.kubelet.crash(pod)
        cluster.sync_deployments()
        cluster.reconcile()
        degraded = condition(cluster.server, "Degraded")
        assert (degraded["status"], degraded["reason"]) == ("True", "EngineCrashed")
        assert "RuntimeError: no" in degraded["message"]
        assert condition(cluster.server, "Available")["status"] == "False"
        assert reason(cluster) == "EngineCrashed"
        assert any(event.startswith("EngineCrashed: ") for event in cluster.events)

    def test_until_it_answers_again(self) -> None:
        """The container runs again long before the engine has loaded the model."""
        cluster = served_with(1)
        (pod,) = cluster.kubelet.ready()
        cluster.kubelet.crash(pod)
        cluster.kubelet.restart(pod)
        cluster.sync_deployments()
        cluster.reconcile()
        assert condition(cluster.server, "Degraded")["reason"] == "EngineCrashed"
        work(cluster, 15)
        assert is_condition_true(cluster.server, "Available")
        assert condition(cluster.server, "Degraded") == {}

    def test_one_of_two(self) -> None:
        cluster = served_with(2, replicas=2)
        cluster.kubelet.crash(cluster.kubelet.ready()[0])
        cluster.sync_deployments()
        cluster.reconcile()
        assert is_condition_true(cluster.server, "Available")
        assert condition(cluster.server, "Degraded")["reason"] == "EngineCrashed"

    def test_other_revision_rolls_out_meanwhile(self) -> None:
        cluster = served_with(2)
        (pod,) = cluster.kubelet.ready()
        cluster.wants(NEW)
        cluster.reconcile()
        cluster.kubelet.crash(pod)
        cluster.sync_deployments()
        cluster.reconcile()
        assert condition(cluster.server, "Degraded")["reason"] == "EngineCrashed"
        assert condition(cluster.server, "Progressing")["status"] == "True"
