"""The ModelServer's plan: tables of what is there and what happens next."""

from copy import deepcopy

import pytest

from support.builders import FOREIGN_SERVICE, NEW, NOW, OLD, SETTINGS, artifact, model_server
from support.podstatus import termination
from support.serving import Serving, condition_of, kinds, serving
from tuneyard_api.kinds.modelserver import Rollout
from tuneyard_operator.machinery.conditions import timestamp
from tuneyard_operator.machinery.objects import condition_in, matches, name, uid
from tuneyard_operator.machinery.plan import Rejection
from tuneyard_operator.modelserver.artifact import release_of
from tuneyard_operator.modelserver.revisions import Counts
from tuneyard_operator.modelserver.strategies.situation import Decision, Situation
from tuneyard_operator.modelserver.strategies.surge import decide as surge


def test_new_server() -> None:
    step = Serving().dry_run()
    assert kinds(step) == ["Deployment", "Service"]
    assert condition_of(step, "Available") == ("False", "NotReady")
    assert condition_of(step, "Progressing") == ("True", "RollingOut")
    assert "served" not in step.status


def test_at_rest_nothing_is_written() -> None:
    cluster = serving()
    step = cluster.dry_run_at(60)
    assert (step.apply, step.delete, step.events, step.requeue_after) == ([], [], [], None)
    assert step.status == cluster.server["status"]
    assert condition_of(step, "Available") == ("True", "Serving")
    assert condition_of(step, "Progressing") == ("False", "Completed")
    assert step.status["served"]["digest"] == OLD


def test_old_revision_serves_until_new_is_ready() -> None:
    cluster = serving().wants(NEW)
    step = cluster.step(60)
    assert kinds(step) == ["Deployment"]
    assert step.status["served"]["digest"] == OLD
    assert condition_of(step, "Available") == ("True", "Serving")
    assert condition_of(step, "Progressing") == ("True", "RollingOut")


def test_ready_revision_takes_over() -> None:
    cluster = serving().wants(NEW)
    cluster.step(60)
    switch = cluster.become_ready(NEW).step(90)
    assert kinds(switch) == ["Service"]
    assert switch.status["served"]["digest"] == NEW
    assert switch.status["previous"]["digest"] == OLD
    assert (switch.delete, switch.requeue_after) == ([], SETTINGS.retire)
    later = cluster.step(90 + SETTINGS.retire)
    assert [name(item) for item in later.delete] == [f"bot-{switch.status['previous']['revision']}"]


def test_revision_was_ready_unobserved() -> None:
    cluster = Serving()
    cluster.step(0)
    cluster.become_ready(OLD)
    cluster.kubelet.crash(cluster.pod_of(OLD))
    cluster.sync_deployments()
    served = deepcopy(cluster.service)
    cluster.wants(NEW).step(30)
    assert cluster.service == served, "the traffic stays where it was"
    assert len(cluster.deployments) == 2


def test_operator_killed_after_switch() -> None:
    cluster = serving().wants(NEW)
    before = cluster.step(60).status
    cluster.become_ready(NEW).step(90)
    cluster.server["status"] = before
    cluster.server["spec"]["vllm"] = {"maxModelLen": 1}  # and now the spec cannot be read
    step = cluster.dry_run_at(91)
    assert condition_of(step, "Progressing")[1] == "InvalidSpec"
    assert condition_of(step, "Available") == ("True", "Serving")
    assert step.status["served"]["digest"] == NEW


def test_switch_time_in_the_future() -> None:
    cluster = serving()
    cluster.wants(NEW).step(40)
    cluster.become_ready(NEW).step(3600)  # an hour ahead
    assert kinds(cluster.step(50)) == ["Service"], "the time is put right"
    assert [name(item) for item in cluster.step(61).delete], "and the old revision goes when it is due"


def test_children_of_deleted_namesake_are_reused() -> None:
    cluster = serving()
    (before,) = cluster.deployments[0]["metadata"]["ownerReferences"]
    cluster.remove(cluster.server)
    cluster.create(model_server(artifact(OLD)))
    step = cluster.step(60)
    assert sorted(kinds(step)) == ["Deployment", "Service"]
    assert {child["metadata"]["ownerReferences"][0]["uid"] for child in step.apply} == {uid(cluster.server)}
    assert cluster.dry_run_at(61).apply == []
    cluster.deployments[0]["metadata"]["ownerReferences"] = [before]
    cluster.wants(NEW).step(70)
    cluster.become_ready(NEW).step(80)
    assert [name(item) for item in cluster.step(3600).delete], "and what is of no use any more goes"


@pytest.mark.lifecycle("revision-fails")
def test_corrupt_revision_is_rolled_back() -> None:
    cluster = serving().wants(NEW)
    cluster.step(60)
    step = cluster.fail_fetch(NEW, "ArtifactCorrupt", 65, restarts=2).step(90)
    assert condition_of(step, "Degraded") == ("True", "ArtifactCorrupt")
    assert condition_of(step, "ArtifactVerified") == ("False", "ArtifactCorrupt")
    assert condition_of(step, "Available") == ("True", "Serving")
    assert step.status["served"]["digest"] == OLD
    assert [release_of(item).digest for item in cluster.deployments] == [OLD]
    assert [event.reason for event in step.events] == ["ArtifactCorrupt", "RolledBack"]
    cluster.sync_deployments()
    cluster.collect()
    again = cluster.dry_run_at(120)
    assert (again.apply, again.events) == ([], []), "it is not tried again"
    assert condition_of(again, "Degraded") == ("True", "ArtifactCorrupt")


def test_new_spec_clears_failure() -> None:
    cluster = serving().wants(NEW)
    cluster.step(60)
    cluster.fail_fetch(NEW, "ArtifactCorrupt", 65, restarts=2).step(90)
    step = cluster.wants(OLD).step(120)
    assert condition_of(step, "Degraded") == ("", "")
    assert "failed" not in step.status


@pytest.mark.parametrize(
    ("reason", "exit_code", "restarts", "hopeless"),
    [
        ("ArtifactCorrupt", 65, 2, True),
        ("InvalidCredentials", 65, 2, True),
        ("ArtifactCorrupt", 65, 1, False),
        ("StorageUnavailable", 75, 9, False),
    ],
)
def test_final_failures(reason: str, exit_code: int, restarts: int, hopeless: bool) -> None:
    cluster = serving().wants(NEW)
    cluster.step(60)
    step = cluster.fail_fetch(NEW, reason, exit_code, restarts).step(90)
    assert (condition_of(step, "Degraded")[0] == "True") is hopeless


def test_proxy_failure_is_reported() -> None:
    """The proxy says what is wrong with the API key, and the kubelet only that the container is restarted."""
    cluster = Serving()
    cluster.step(0)
    message = termination("InvalidAPIKey", "/etc/tuneyard/auth/key holds no API key.", "Put one into it.")
    step = cluster.fail_container(OLD, "proxy", 65, message, restarts=1).step(30)
    progressing = condition_in(step.status["conditions"], "Progressing")
    assert progressing["message"].endswith("InvalidAPIKey: /etc/tuneyard/auth/key holds no API key. Put one into it.")
    assert [event.reason for event in step.events] == ["Waiting"]
    step = cluster.fail_container(OLD, "proxy", 65, message, restarts=3).step(90)
    assert condition_of(step, "Available") == ("False", "InvalidAPIKey")
    assert condition_of(step, "Degraded") == ("True", "InvalidAPIKey")
    assert "CrashLoopBackOff" not in str(step)


@pytest.mark.lifecycle("first-revision-fails")
def test_first_revision_is_retried() -> None:
    cluster = Serving()
    cluster.step(0)
    step = cluster.fail_fetch(OLD, "ArtifactCorrupt", 65, restarts=3).step(60)
    assert condition_of(step, "Available") == ("False", "ArtifactCorrupt")
    assert condition_of(step, "Degraded") == ("True", "ArtifactCorrupt")
    assert cluster.deployment_of(OLD)["spec"]["replicas"] == 1


def test_missed_deadline_is_a_failure() -> None:
    cluster = serving().wants(NEW)
    cluster.step(60)
    cluster.sync_deployments()
    cluster.wait(cluster.deployment_of(NEW)["spec"]["progressDeadlineSeconds"] + 1)
    cluster.sync_deployments()
    assert condition_of(cluster.step(1000), "Degraded") == ("True", "ProgressDeadlineExceeded")


def test_foreign_service_is_not_changed() -> None:
    cluster = Serving()
    cluster.create(FOREIGN_SERVICE)
    step = cluster.dry_run()
    assert step.apply == []
    assert condition_of(step, "Degraded") == ("True", "Refused")


def test_rejection_is_reported() -> None:
    cluster = serving().wants(NEW)
    cluster.rejection = Rejection("Deployment bot-x", "exceeded quota", final=False)
    step = cluster.dry_run_at(60)
    assert condition_of(step, "Degraded") == ("True", "Refused")
    assert "failed" not in step.status
    assert "exceeded quota" in condition_in(step.status["conditions"], "Degraded")["message"]


def test_ready_revision_does_not_serve_without_a_service() -> None:
    cluster = Serving()
    cluster.step(0)
    cluster.become_ready(OLD)
    cluster.replace_service()
    cluster.rejection = Rejection("Service bot", "exceeded quota", final=False)
    step = cluster.dry_run_at(30)
    assert "served" not in step.status
    assert condition_of(step, "Available") == ("False", "Refused")


@pytest.mark.lifecycle("served-revision-fails")
def test_serving_revision_is_not_rolled_back() -> None:
    cluster = serving()
    cluster.kubelet.crash(cluster.pod_of(OLD))
    step = cluster.fail_fetch(OLD, "ArtifactCorrupt", 65, restarts=3).step(60)
    assert condition_of(step, "Available") == ("False", "ArtifactCorrupt")
    assert [event.reason for event in step.events] == ["ArtifactCorrupt"]
    assert "failed" not in step.status
    cluster.delete(cluster.pod_of(OLD))
    assert condition_of(cluster.become_ready(OLD).step(90), "Degraded") == ("", "")


def test_rejection_keeps_rollback() -> None:
    cluster = serving().wants(NEW)
    cluster.step(60)
    cluster.fail_fetch(NEW, "ArtifactCorrupt", 65, restarts=2).step(90)
    cluster.rejection = Rejection("Service bot", "exceeded quota", final=False)
    step = cluster.step(100)
    assert condition_of(step, "Degraded") == ("True", "Refused")
    assert step.status["failed"]["reason"] == "ArtifactCorrupt"


def test_partly_ready_revision_keeps_traffic() -> None:
    cluster = Serving(replicas=2)
    cluster.step(0)
    cluster.become_ready(OLD)
    cluster.kubelet.crash(cluster.pod_of(OLD))
    cluster.sync_deployments()
    assert condition_of(cluster.step(30), "Available") == ("True", "Serving")
    assert kinds(cluster.wants(NEW).step(60)) == ["Deployment"]


def test_deleting_deployment_is_not_applied() -> None:
    cluster = serving()
    cluster.delete(cluster.deployment_of(OLD))
    assert kinds(cluster.dry_run_at(60)) == []
    cluster.collect()
    assert kinds(cluster.dry_run_at(90)) == ["Deployment"]


def test_unavailable_without_traffic() -> None:
    """The API server does not take the Service that points here."""
    cluster = serving()
    cluster.redirect_service()
    cluster.rejection = Rejection("Service bot", "exceeded quota", final=False)
    assert condition_of(cluster.dry_run_at(60), "Available") == ("False", "Refused")


@pytest.mark.lifecycle("scaled-to-zero")
class TestScaledToZero:
    def test_new_server_is_neither_served_nor_verified(self) -> None:
        cluster = Serving(replicas=0)
        for at in (0, 30, 60):
            step = cluster.step(at)
            cluster.sync_deployments()
        assert kinds(step) == [] and cluster.deployments == []
        assert "served" not in step.status
        assert condition_of(step, "ArtifactVerified") == ("", "")
        assert condition_of(step, "Available") == ("False", "ScaledToZero")
        assert condition_of(step, "Progressing") == ("False", "ScaledToZero")
        assert (step.status["reason"], step.requeue_after) == ("ScaledToZero", None)

    def test_last_good_revision_is_kept(self) -> None:
        cluster = serving().change(replicas=0)
        cluster.step(60)
        cluster.sync_deployments()
        cluster.wants(NEW)
        for at in (90, 120, 150):
            step = cluster.step(at)
            cluster.sync_deployments()
        assert step.status["served"]["digest"] == OLD
        assert condition_in(step.status["conditions"], "ArtifactVerified")["message"] == OLD
        assert [release_of(item).digest for item in cluster.deployments] == [OLD]
        assert condition_of(step, "Progressing") == ("False", "ScaledToZero")

    def test_bad_revision_is_rolled_back_when_it_is_scaled_up(self) -> None:
        cluster = serving().change(replicas=0)
        cluster.step(60)
        cluster.sync_deployments()
        cluster.wants(NEW).step(90)
        cluster.change(replicas=1).step(120)
        cluster.become_ready(OLD).fail_fetch(NEW, "ArtifactCorrupt", 65, restarts=2)
        step = cluster.step(150)
        assert condition_of(step, "Available") == ("True", "Serving")
        assert condition_of(step, "Degraded") == ("True", "ArtifactCorrupt")
        assert step.status["served"]["digest"] == OLD


@pytest.mark.lifecycle("server-image-changed")
def test_new_image_is_a_new_revision() -> None:
    """As an upgrade of the operator brings it."""
    cluster = serving()
    cluster.settings = SETTINGS.model_copy(update={"server_image": "server:2"})
    assert cluster.step(60).status["reason"] == "WaitingForTurn", "first it gets in line"
    (new,) = cluster.dry_run_at(61).apply
    assert new["metadata"]["name"] != cluster.deployment_of(OLD)["metadata"]["name"]
    assert "server:2" in str(new)


class TestDeploymentLacksPods:
    @pytest.mark.lifecycle("deployment-stalled")
    def test_stalled_deployment_is_nudged(self) -> None:
        cluster = stalled(430)
        (child,) = cluster.dry_run().apply
        (before,) = cluster.deployments
        assert child["metadata"]["annotations"].pop("tuneyard.dev/nudged-at") == timestamp(cluster.now)
        assert matches(before, child), "nothing else changes"

    def test_is_requeued_until_then(self) -> None:
        step = stalled(410).dry_run()
        assert (step.apply, step.requeue_after) == ([], 15.0)

    def test_is_nudged_once(self) -> None:
        cluster = stalled(430)
        assert cluster.reconcile().apply
        cluster.wait(15)
        assert cluster.dry_run().apply == []

    def test_old_revision_is_nudged_too(self) -> None:
        cluster = stalled(0).wants(NEW)
        cluster.reconcile()
        assert len(cluster.deployments) == 2
        cluster.wait_idle(430)
        assert sorted(map(name, cluster.dry_run().apply)) == sorted(map(name, cluster.deployments))

    def test_is_left_alone_while_pods_start(self) -> None:
        cluster = serving()
        cluster.delete(cluster.pod_of(OLD))
        cluster.sync_deployments()
        cluster.step(60)
        cluster.wait_idle(9000)
        assert cluster.dry_run().apply == []


def stalled(seconds: float) -> Serving:
    """A server that has served, whose Deployment gets no pod, and about which there was no event for so long."""
    cluster = serving()
    cluster.deployment_controller.stall(cluster.deployment_of(OLD))
    cluster.sync_deployments()
    cluster.step(60)
    cluster.wait_idle(seconds)
    return cluster


def test_drift_is_corrected() -> None:
    cluster = serving()
    cluster.deployment_of(OLD)["spec"]["replicas"] = 7
    assert kinds(cluster.dry_run_at(60)) == ["Deployment"]


READY, STARTING = Counts(2, 2, 2, all_available=True), Counts(2, 1, 0, all_available=False)
SCALED_DOWN = Counts(0, 0, 0, all_available=True)


@pytest.mark.parametrize(
    ("target", "serving", "has_failed", "revisions", "decision"),
    [
        (None, None, False, {}, Decision({}, {})),
        (None, "a", False, {"a": READY}, Decision({"a": 100}, {"a": 2})),
        ("a", None, False, {}, Decision({"a": 100}, {"a": 2})),
        ("a", "a", False, {"a": READY}, Decision({"a": 100}, {"a": 2})),
        ("a", "a", True, {"a": STARTING}, Decision({"a": 100}, {"a": 2})),
        ("b", "a", False, {"a": READY}, Decision({"a": 100}, {"a": 2, "b": 2})),
        ("b", "a", False, {"a": READY, "b": STARTING}, Decision({"a": 100}, {"a": 2, "b": 2})),
        ("b", "a", False, {"a": READY, "b": SCALED_DOWN}, Decision({"a": 100}, {"a": 2, "b": 2})),
        ("b", "a", False, {"a": READY, "b": READY}, Decision({"b": 100}, {"b": 2})),
        ("b", "a", True, {"a": READY, "b": STARTING}, Decision({"a": 100}, {"a": 2})),
        ("b", "a", True, {"a": READY, "b": READY}, Decision({"a": 100}, {"a": 2})),
    ],
)
def test_surge(
    target: str | None, serving: str | None, has_failed: bool, revisions: dict[str, Counts], decision: Decision
) -> None:
    situation = Situation(target, serving, has_failed, 2, revisions, Rollout(), state=None, now=NOW)
    assert surge(situation) == decision
