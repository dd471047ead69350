"""The ModelServer's plan: tables of what is there and what happens next."""

import pytest

from support.operatorbuilders import NOW, SETTINGS
from support.servingbuilders import NEW, OLD, Scene, kinds, says, serving
from tuneyard_api.contracts.termination import termination_message
from tuneyard_api.kinds.modelserver import Rollout
from tuneyard_operator.machinery.objects import condition_in, matches
from tuneyard_operator.machinery.plan import Rejection
from tuneyard_operator.modelserver.plan import plan
from tuneyard_operator.modelserver.revisions import Counts
from tuneyard_operator.modelserver.strategies.situation import Decision, Situation
from tuneyard_operator.modelserver.strategies.surge import decide as surge


def test_new_server() -> None:
    step = Scene().plan()
    assert kinds(step) == ["Deployment", "Service"]
    assert says(step, "Available") == ("False", "NotReady")
    assert says(step, "Progressing") == ("True", "RollingOut")
    assert "served" not in step.status


def test_at_rest_nothing_is_written() -> None:
    scene = serving()
    step = scene.plan(60)
    assert (step.apply, step.delete, step.events, step.requeue_after) == ([], [], [], None)
    assert step.status == scene.server["status"]
    assert says(step, "Available") == ("True", "Serving")
    assert says(step, "Progressing") == ("False", "Completed")
    assert step.status["served"]["digest"] == OLD


def test_old_revision_serves_until_new_is_ready() -> None:
    scene = serving().wants(NEW)
    step = scene.step(60)
    assert kinds(step) == ["Deployment"]
    assert step.status["served"]["digest"] == OLD
    assert says(step, "Available") == ("True", "Serving")
    assert says(step, "Progressing") == ("True", "RollingOut")


def test_ready_revision_takes_over() -> None:
    scene = serving().wants(NEW)
    scene.step(60)
    switch = scene.becomes_ready(NEW).step(90)
    assert kinds(switch) == ["Service"]
    assert switch.status["served"]["digest"] == NEW
    assert switch.status["previous"]["digest"] == OLD
    assert (switch.delete, switch.requeue_after) == ([], SETTINGS.retire)
    later = scene.step(90 + SETTINGS.retire)
    assert [each["metadata"]["name"] for each in later.delete] == [f"bot-{switch.status['previous']['revision']}"]


def test_revision_was_ready_unobserved() -> None:
    scene = Scene()
    scene.step()
    complete = {"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"}
    scene.deployment_of(OLD)["status"] = {"replicas": 1, "conditions": [complete]}  # and has lost its pod since
    served = scene.world.service
    scene.wants(NEW).step(30)
    assert scene.world.service == served, "the traffic stays where it was"
    assert len(scene.world.deployments) == 2


def test_operator_killed_after_switch() -> None:
    scene = serving().wants(NEW)
    before = scene.step(60).status
    scene.becomes_ready(NEW).step(90)
    scene.server["status"] = before
    scene.server["spec"]["vllm"] = {"maxModelLen": 1}  # and now the spec cannot be read
    step = scene.plan(91)
    assert says(step, "Progressing")[1] == "InvalidSpec"
    assert says(step, "Available") == ("True", "Serving")
    assert step.status["served"]["digest"] == NEW


def test_switch_time_in_the_future() -> None:
    scene = serving()
    scene.wants(NEW).step(40)
    scene.becomes_ready(NEW).step(3600)  # an hour ahead
    assert kinds(scene.step(50)) == ["Service"], "the time is put right"
    assert [each["metadata"]["name"] for each in scene.step(61).delete], "and the old revision goes when it is due"


def test_children_of_deleted_namesake_are_reused() -> None:
    scene = serving()
    scene.server["metadata"]["uid"] = "another-uid"
    step = scene.step(60)
    assert sorted(kinds(step)) == ["Deployment", "Service"]
    assert {child["metadata"]["ownerReferences"][0]["uid"] for child in step.apply} == {"another-uid"}
    assert scene.plan(61).apply == []
    scene.world.deployments[0]["metadata"]["ownerReferences"][0]["uid"] = "server-uid"
    scene.wants(NEW).step(70)
    scene.becomes_ready(NEW).step(80)
    assert [each["metadata"]["name"] for each in scene.step(3600).delete], "and what is of no use any more goes"


@pytest.mark.lifecycle("revision-fails")
def test_corrupt_revision_is_rolled_back() -> None:
    scene = serving().wants(NEW)
    scene.step(60)
    step = scene.fetch_fails(NEW, "ArtifactCorrupt", 65, restarts=2).step(90)
    assert says(step, "Degraded") == ("True", "ArtifactCorrupt")
    assert says(step, "ArtifactVerified") == ("False", "ArtifactCorrupt")
    assert says(step, "Available") == ("True", "Serving")
    assert step.status["served"]["digest"] == OLD
    assert scene.deployment_of(NEW)["spec"]["replicas"] == 0
    assert [event.reason for event in step.events] == ["ArtifactCorrupt", "RolledBack"]
    scene.world = scene.world._replace(pods=[])
    again = scene.plan(120)
    assert (again.apply, again.events) == ([], []), "it is not tried again"
    assert says(again, "Degraded") == ("True", "ArtifactCorrupt")


def test_new_spec_clears_failure() -> None:
    scene = serving().wants(NEW)
    scene.step(60)
    scene.fetch_fails(NEW, "ArtifactCorrupt", 65, restarts=2).step(90)
    step = scene.wants(OLD).step(120)
    assert says(step, "Degraded") == ("", "")
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
    scene = serving().wants(NEW)
    scene.step(60)
    step = scene.fetch_fails(NEW, reason, exit_code, restarts).step(90)
    assert (says(step, "Degraded")[0] == "True") is hopeless


def test_proxy_failure_is_reported() -> None:
    """The proxy says what is wrong with the API key, and the kubelet only that the container is restarted."""
    scene = Scene()
    scene.step()
    message = termination_message("InvalidAPIKey", "/etc/tuneyard/auth/key holds no API key.", "Put one into it.")
    ended = {"exitCode": 65, "message": message.decode()}
    step = scene.container_fails(OLD, "proxy", ended, restarts=1).step(30)
    progressing = condition_in(step.status["conditions"], "Progressing")
    assert progressing["message"].endswith("InvalidAPIKey: /etc/tuneyard/auth/key holds no API key. Put one into it.")
    assert [event.reason for event in step.events] == ["Waiting"]
    step = scene.container_fails(OLD, "proxy", ended, restarts=3).step(90)
    assert says(step, "Available") == ("False", "InvalidAPIKey")
    assert says(step, "Degraded") == ("True", "InvalidAPIKey")
    assert "CrashLoopBackOff" not in str(step)


@pytest.mark.lifecycle("first-revision-fails")
def test_first_revision_is_retried() -> None:
    scene = Scene()
    scene.step()
    step = scene.fetch_fails(OLD, "ArtifactCorrupt", 65, restarts=3).step(60)
    assert says(step, "Available") == ("False", "ArtifactCorrupt")
    assert says(step, "Degraded") == ("True", "ArtifactCorrupt")
    assert scene.deployment_of(OLD)["spec"]["replicas"] == 1


def test_missed_deadline_is_a_failure() -> None:
    scene = serving().wants(NEW)
    scene.step(60)
    late = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}
    scene.deployment_of(NEW)["status"] = {"conditions": [late]}
    assert says(scene.step(1000), "Degraded") == ("True", "ProgressDeadlineExceeded")


def test_foreign_service_is_not_changed() -> None:
    scene = Scene()
    theirs = {"kind": "Service", "metadata": {"name": "bot", "namespace": "team", "uid": "x"}, "spec": {"selector": {}}}
    scene.world = scene.world._replace(service=theirs)
    step = scene.plan()
    assert step.apply == []
    assert says(step, "Degraded") == ("True", "Refused")


def test_rejection_is_reported() -> None:
    scene = serving().wants(NEW)
    scene.world = scene.world._replace(rejection=Rejection("Deployment bot-x", "exceeded quota", final=False))
    step = scene.plan(60)
    assert says(step, "Degraded") == ("True", "Refused")
    assert "failed" not in step.status
    assert "exceeded quota" in condition_in(step.status["conditions"], "Degraded")["message"]


def test_ready_revision_does_not_serve_without_a_service() -> None:
    scene = Scene()
    scene.step()
    scene.becomes_ready(OLD)
    rejection = Rejection("Service bot", "exceeded quota", final=False)
    scene.world = scene.world._replace(service=None, rejection=rejection)
    step = scene.plan(30)
    assert "served" not in step.status
    assert says(step, "Available") == ("False", "Refused")


@pytest.mark.lifecycle("served-revision-fails")
def test_serving_revision_is_not_rolled_back() -> None:
    scene = serving()
    scene.deployment_of(OLD)["status"] = {"replicas": 1}
    step = scene.fetch_fails(OLD, "ArtifactCorrupt", 65, restarts=3).step(60)
    assert says(step, "Available") == ("False", "ArtifactCorrupt")
    assert [event.reason for event in step.events] == ["ArtifactCorrupt"]
    assert "failed" not in step.status
    scene.world = scene.world._replace(pods=[])
    assert says(scene.becomes_ready(OLD).step(90), "Degraded") == ("", "")


def test_rejection_keeps_rollback() -> None:
    scene = serving().wants(NEW)
    scene.step(60)
    scene.fetch_fails(NEW, "ArtifactCorrupt", 65, restarts=2).step(90)
    scene.world = scene.world._replace(rejection=Rejection("Service bot", "exceeded quota", final=False))
    step = scene.step(100)
    assert says(step, "Degraded") == ("True", "Refused")
    assert step.status["failed"]["reason"] == "ArtifactCorrupt"


def test_partly_ready_revision_keeps_traffic() -> None:
    scene = Scene(replicas=2)
    scene.step()
    scene.deployment_of(OLD)["status"] = {"replicas": 2, "readyReplicas": 1, "availableReplicas": 1}
    assert says(scene.step(30), "Available") == ("True", "Serving")
    assert kinds(scene.wants(NEW).step(60)) == ["Deployment"]


def test_deleting_deployment_is_not_applied() -> None:
    scene = serving()
    scene.deployment_of(OLD)["metadata"]["deletionTimestamp"] = "2030-01-02T03:05:00Z"
    assert kinds(scene.plan(60)) == []
    scene.world = scene.world._replace(deployments=[])
    assert kinds(scene.plan(90)) == ["Deployment"]


def test_unavailable_without_traffic() -> None:
    """The API server does not take the Service that points here."""
    scene = serving()
    assert scene.world.service
    scene.world.service["spec"]["selector"] = {"app": "another"}
    scene.world = scene.world._replace(rejection=Rejection("Service bot", "exceeded quota", final=False))
    assert says(scene.plan(60), "Available") == ("False", "Refused")


def test_unverified_before_fetch() -> None:
    scene = Scene(replicas=0)
    scene.step()
    step = scene.becomes_ready(OLD).step(30)
    assert step.status["served"]["digest"] == OLD
    assert says(step, "ArtifactVerified") == ("", "")


@pytest.mark.lifecycle("server-image-changed")
def test_new_image_is_a_new_revision() -> None:
    """As an upgrade of the operator brings it."""
    scene = serving()
    (new,) = plan(scene.world, SETTINGS.model_copy(update={"server_image": "server:2"}), NOW).apply
    assert new["metadata"]["name"] != scene.deployment_of(OLD)["metadata"]["name"]
    assert "server:2" in str(new)


class TestDeploymentLacksPods:
    @pytest.mark.lifecycle("deployment-stalled")
    def test_stalled_deployment_is_nudged(self) -> None:
        scene = forgotten(430)
        (child,) = scene.plan(500).apply
        (before,) = scene.world.deployments
        assert child["metadata"]["annotations"].pop("tuneyard.dev/nudged-at") == "2030-01-02T03:12:25Z"
        assert matches(before, child), "nothing else changes"

    def test_is_requeued_until_then(self) -> None:
        step = forgotten(410).plan(500)
        assert (step.apply, step.requeue_after) == ([], 15.0)

    def test_is_nudged_once(self) -> None:
        scene = forgotten(430)
        assert scene.step(500).apply
        scene.world = scene.world._replace(seconds_since_last_event=0)
        assert scene.plan(515).apply == []

    def test_old_revision_is_nudged_too(self) -> None:
        scene = forgotten(430).wants(NEW)
        names = [each["metadata"]["name"] for each in scene.step(500).apply]
        assert len(names) == 2, names

    def test_is_left_alone_while_pods_start(self) -> None:
        scene = forgotten(9000)
        scene.deployment_of(OLD)["status"]["replicas"] = 1
        assert scene.plan(500).apply == []


def forgotten(seconds: float) -> Scene:
    """A server that has served, whose Deployment has no pod, and of which nothing was heard for so long."""
    scene = serving()
    scene.deployment_of(OLD)["status"] = {"replicas": 0}
    scene.step(60)
    scene.world = scene.world._replace(seconds_since_last_event=seconds)
    return scene


def test_drift_is_corrected() -> None:
    scene = serving()
    scene.deployment_of(OLD)["spec"]["replicas"] = 7
    assert kinds(scene.plan(60)) == ["Deployment"]


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
        ("b", "a", True, {"a": READY, "b": STARTING}, Decision({"a": 100}, {"a": 2, "b": 0})),
        ("b", "a", True, {"a": READY, "b": READY}, Decision({"a": 100}, {"a": 2, "b": 0})),
    ],
)
def test_surge(
    target: str | None, serving: str | None, has_failed: bool, revisions: dict[str, Counts], decision: Decision
) -> None:
    situation = Situation(target, serving, has_failed, 2, revisions, Rollout(), state=None, now=NOW)
    assert surge(situation) == decision
