"""The ModelServer's plan: tables of what is there and what happens next."""

import pytest

from support.operatorbuilders import NOW, SETTINGS
from support.servingbuilders import NEW, OLD, Scene, kinds, says, serving
from tuneyard_operator.machinery.objects import condition_in, matches
from tuneyard_operator.machinery.plan import Rejection
from tuneyard_operator.modelserver.plan import plan
from tuneyard_operator.modelserver.strategies.situation import Decision, Situation
from tuneyard_operator.modelserver.strategies.surge import surge


def test_a_new_server_gets_a_deployment_and_a_service() -> None:
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


def test_until_the_new_revision_is_ready_the_old_one_serves() -> None:
    scene = serving().wants(NEW)
    step = scene.step(60)
    assert kinds(step) == ["Deployment"]
    assert step.status["served"]["digest"] == OLD
    assert says(step, "Available") == ("True", "Serving")
    assert says(step, "Progressing") == ("True", "RollingOut")


def test_a_ready_revision_takes_over_and_the_old_one_goes_later() -> None:
    scene = serving().wants(NEW)
    scene.step(60)
    switch = scene.becomes_ready(NEW).step(90)
    assert kinds(switch) == ["Service"]
    assert switch.status["served"]["digest"] == NEW
    assert switch.status["previous"]["digest"] == OLD
    assert (switch.delete, switch.requeue_after) == ([], SETTINGS.retire)
    later = scene.step(90 + SETTINGS.retire)
    assert [each["metadata"]["name"] for each in later.delete] == [f"bot-{switch.status['previous']['revision']}"]


def test_a_revision_that_was_ready_while_nobody_looked_serves_on() -> None:
    scene = Scene()
    scene.step()
    complete = {"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"}
    scene.deployment_of(OLD)["status"] = {"replicas": 1, "conditions": [complete]}  # and has lost its pod since
    served = scene.world.service
    scene.wants(NEW).step(30)
    assert scene.world.service == served, "the traffic stays where it was"
    assert len(scene.world.deployments) == 2


def test_what_has_the_traffic_serves_although_the_operator_was_killed_before_it_said_so() -> None:
    scene = serving().wants(NEW)
    before = scene.step(60).status
    scene.becomes_ready(NEW).step(90)
    scene.server["status"] = before
    scene.server["spec"]["vllm"] = {"maxModelLen": 1}  # and now the spec cannot be read
    step = scene.plan(91)
    assert says(step, "Progressing")[1] == "InvalidSpec"
    assert says(step, "Available") == ("True", "Serving")
    assert step.status["served"]["digest"] == NEW


def test_a_switch_in_the_future_was_told_by_a_wrong_clock() -> None:
    scene = serving()
    scene.wants(NEW).step(40)
    scene.becomes_ready(NEW).step(3600)  # an hour ahead
    assert kinds(scene.step(50)) == ["Service"], "the time is put right"
    assert [each["metadata"]["name"] for each in scene.step(61).delete], "and the old revision goes when it is due"


def test_what_a_deleted_namesake_has_left_is_taken_over() -> None:
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


def test_a_corrupt_revision_is_taken_back() -> None:
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


def test_another_spec_leaves_the_failed_revision_behind() -> None:
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
def test_which_failures_end_a_rollout(reason: str, exit_code: int, restarts: int, hopeless: bool) -> None:
    scene = serving().wants(NEW)
    scene.step(60)
    step = scene.fetch_fails(NEW, reason, exit_code, restarts).step(90)
    assert (says(step, "Degraded")[0] == "True") is hopeless


def test_a_first_revision_that_fails_goes_on_trying_and_says_why() -> None:
    scene = Scene()
    scene.step()
    step = scene.fetch_fails(OLD, "ArtifactCorrupt", 65, restarts=3).step(60)
    assert says(step, "Available") == ("False", "ArtifactCorrupt")
    assert says(step, "Degraded") == ("True", "ArtifactCorrupt")
    assert scene.deployment_of(OLD)["spec"]["replicas"] == 1


def test_a_missed_deadline_is_a_failure() -> None:
    scene = serving().wants(NEW)
    scene.step(60)
    late = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}
    scene.deployment_of(NEW)["status"] = {"conditions": [late]}
    assert says(scene.step(1000), "Degraded") == ("True", "ProgressDeadlineExceeded")


def test_a_service_of_somebody_else_is_left_alone() -> None:
    scene = Scene()
    theirs = {"kind": "Service", "metadata": {"name": "bot", "namespace": "team", "uid": "x"}, "spec": {"selector": {}}}
    scene.world = scene.world._replace(service=theirs)
    step = scene.plan()
    assert step.apply == []
    assert says(step, "Degraded") == ("True", "Refused")


def test_what_the_api_server_refuses_is_told_and_tried_again() -> None:
    scene = serving().wants(NEW)
    scene.world = scene.world._replace(rejection=Rejection("Deployment bot-x", "exceeded quota", final=False))
    step = scene.plan(60)
    assert says(step, "Degraded") == ("True", "Refused")
    assert "failed" not in step.status
    assert "exceeded quota" in condition_in(step.status["conditions"], "Degraded")["message"]


def test_what_serves_and_fails_for_a_while_is_not_taken_back() -> None:
    scene = serving()
    scene.deployment_of(OLD)["status"] = {"replicas": 1}
    step = scene.fetch_fails(OLD, "ArtifactCorrupt", 65, restarts=3).step(60)
    assert says(step, "Available") == ("False", "ArtifactCorrupt")
    assert [event.reason for event in step.events] == ["ArtifactCorrupt"]
    assert "failed" not in step.status
    scene.world = scene.world._replace(pods=[])
    assert says(scene.becomes_ready(OLD).step(90), "Degraded") == ("", "")


def test_a_refusal_does_not_make_it_forget_what_was_given_up() -> None:
    scene = serving().wants(NEW)
    scene.step(60)
    scene.fetch_fails(NEW, "ArtifactCorrupt", 65, restarts=2).step(90)
    scene.world = scene.world._replace(rejection=Rejection("Service bot", "exceeded quota", final=False))
    step = scene.step(100)
    assert says(step, "Degraded") == ("True", "Refused")
    assert step.status["failed"]["reason"] == "ArtifactCorrupt"


def test_one_of_two_replicas_that_answers_is_not_left_for_what_is_not_ready() -> None:
    scene = Scene(replicas=2)
    scene.step()
    scene.deployment_of(OLD)["status"] = {"replicas": 2, "readyReplicas": 1, "availableReplicas": 1}
    assert says(scene.step(30), "Available") == ("True", "Serving")
    assert kinds(scene.wants(NEW).step(60)) == ["Deployment"]


def test_what_goes_away_takes_nothing_any_more() -> None:
    scene = serving()
    scene.deployment_of(OLD)["metadata"]["deletionTimestamp"] = "2030-01-02T03:05:00Z"
    assert kinds(scene.plan(60)) == []
    scene.world = scene.world._replace(deployments=[])
    assert kinds(scene.plan(90)) == ["Deployment"]


def test_without_the_traffic_nothing_is_available() -> None:
    """The API server does not take the Service that points here."""
    scene = serving()
    assert scene.world.service
    scene.world.service["spec"]["selector"] = {"app": "another"}
    scene.world = scene.world._replace(rejection=Rejection("Service bot", "exceeded quota", final=False))
    assert says(scene.plan(60), "Available") == ("False", "Refused")


def test_nothing_is_verified_before_a_pod_has_fetched() -> None:
    scene = Scene(replicas=0)
    scene.step()
    step = scene.becomes_ready(OLD).step(30)
    assert step.status["served"]["digest"] == OLD
    assert says(step, "ArtifactVerified") == ("", "")


def test_a_new_server_image_is_a_new_revision() -> None:
    """As an upgrade of the operator brings it."""
    scene = serving()
    (new,) = plan(scene.world, SETTINGS.model_copy(update={"server_image": "server:2"}), NOW).apply
    assert new["metadata"]["name"] != scene.deployment_of(OLD)["metadata"]["name"]
    assert "server:2" in str(new)


class TestADeploymentThatLacksPods:
    def test_a_deployment_that_nobody_looks_at_is_changed(self) -> None:
        scene = forgotten(430)
        (child,) = scene.plan(500).apply
        (before,) = scene.world.deployments
        assert child["metadata"]["annotations"].pop("tuneyard.dev/woken-at") == "2030-01-02T03:12:25Z"
        assert matches(before, child), "nothing else changes"

    def test_is_looked_at_until_then(self) -> None:
        step = forgotten(410).plan(500)
        assert (step.apply, step.requeue_after) == ([], 15.0)

    def test_is_changed_once_per_silence(self) -> None:
        scene = forgotten(430)
        assert scene.step(500).apply
        scene.world = scene.world._replace(silence=0)
        assert scene.plan(515).apply == []

    def test_is_changed_too_when_it_is_one_of_the_last_revision(self) -> None:
        scene = forgotten(430).wants(NEW)
        names = [each["metadata"]["name"] for each in scene.step(500).apply]
        assert len(names) == 2, names

    def test_is_left_alone_while_its_pods_come_up(self) -> None:
        scene = forgotten(9000)
        scene.deployment_of(OLD)["status"]["replicas"] = 1
        assert scene.plan(500).apply == []


def forgotten(seconds: float) -> Scene:
    """A server that has served, whose Deployment has no pod, and of which nothing was heard for so long."""
    scene = serving()
    scene.deployment_of(OLD)["status"] = {"replicas": 0}
    scene.step(60)
    scene.world = scene.world._replace(silence=seconds)
    return scene


def test_drift_is_repaired() -> None:
    scene = serving()
    scene.deployment_of(OLD)["spec"]["replicas"] = 7
    assert kinds(scene.plan(60)) == ["Deployment"]


@pytest.mark.parametrize(
    ("situation", "decision"),
    [
        (Situation(None, None, False, False, 2), Decision(None, {})),
        (Situation(None, "a", False, False, 2), Decision("a", {"a": 2})),
        (Situation("a", None, False, False, 2), Decision("a", {"a": 2})),
        (Situation("a", "a", True, False, 2), Decision("a", {"a": 2})),
        (Situation("b", "a", False, False, 2), Decision("a", {"a": 2, "b": 2})),
        (Situation("b", "a", True, False, 2), Decision("b", {"b": 2})),
        (Situation("b", "a", False, True, 2), Decision("a", {"a": 2, "b": 0})),
        (Situation("b", "a", True, True, 0), Decision("a", {"a": 0, "b": 0})),
    ],
)
def test_surge(situation: Situation, decision: Decision) -> None:
    assert surge(situation) == decision
