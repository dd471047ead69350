"""The ModelServer's plan: tables of what is there and what happens next."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tuneyard_api.modelserver import ModelServerSpec, ServedModelSource
from tuneyard_operator.finetunejob.revision import revision
from tuneyard_operator.modelserver.artifact import Artifact, Missing, find_artifact
from tuneyard_operator.modelserver.children import FETCH, SWITCHED_AT, deployment, pod_spec, revision_of, service
from tuneyard_operator.modelserver.observe import World
from tuneyard_operator.modelserver.plan import plan
from tuneyard_operator.modelserver.strategies.situation import Decision, Situation
from tuneyard_operator.modelserver.strategies.surge import surge
from tuneyard_operator.objects import Json, condition_in
from tuneyard_operator.plans import Plan, Refusal
from tuneyard_operator.settings import Settings

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
SETTINGS = Settings(trainer_image="trainer:1", server_image="server:1")
OLD, NEW = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"


class Scene:
    """A ModelServer and its children, built step by step."""

    def __init__(self, digest: str = OLD, **spec: Any) -> None:
        model = {"uri": "s3://artifacts/x", "digest": digest}
        metadata = {"name": "bot", "namespace": "team", "uid": "server-uid", "generation": 1}
        self.server: Json = {"kind": "ModelServer", "metadata": metadata, "spec": {"model": model} | spec, "status": {}}
        self.world = World(self.server)

    def wants(self, digest: str) -> "Scene":
        self.server["spec"]["model"]["digest"] = digest
        self.server["metadata"]["generation"] += 1
        return self

    def plan(self, seconds: float = 0) -> Plan:
        return plan(self.world, SETTINGS, NOW + timedelta(seconds=seconds))

    def step(self, seconds: float = 0) -> Plan:
        """Carries the plan out, as the API server would."""
        step = self.plan(seconds)
        self.server["status"] = step.status
        gone = {each["metadata"]["name"] for each in step.delete}
        there = {each["metadata"]["name"]: each for each in self.world.deployments}
        for child in step.apply:
            if child["kind"] == "Service":
                self.world = self.world._replace(service=child)
            else:
                before = there.get(child["metadata"]["name"], {})
                listed = {key: child[key] for key in ("kind", "metadata", "spec")}  # a list's items have no apiVersion
                there[child["metadata"]["name"]] = listed | {"status": before.get("status", {})}
        self.world = self.world._replace(deployments=[each for key, each in there.items() if key not in gone])
        return step

    def becomes_ready(self, digest: str) -> "Scene":
        found = self.deployment_of(digest)
        count = found["spec"]["replicas"]
        found["status"] = {"replicas": count, "readyReplicas": count, "availableReplicas": count}
        return self

    def deployment_of(self, digest: str) -> Json:
        return next(each for each in self.world.deployments if digest in each["metadata"]["annotations"].__str__())

    def fetch_fails(self, digest: str, reason: str, exit_code: int, restarts: int) -> "Scene":
        ended = {
            "exitCode": exit_code,
            "message": f'{{"reason": "{reason}", "message": "model.safetensors differs", "advice": "Publish again."}}',
        }
        revision = self.deployment_of(digest)["spec"]["selector"]["matchLabels"]
        status = {"name": FETCH, "restartCount": restarts, "state": {"waiting": {}}, "lastState": {"terminated": ended}}
        pod = {
            "kind": "Pod",
            "metadata": {"name": "bot-pod", "namespace": "team", "uid": "pod-uid", "labels": revision},
            "status": {"initContainerStatuses": [status]},
        }
        self.world = self.world._replace(pods=[pod])
        return self


def serving() -> Scene:
    """A server whose first revision has the traffic."""
    scene = Scene()
    scene.step()
    scene.becomes_ready(OLD).step(30)
    return scene


def says(step: Plan, kind: str) -> tuple[str, str]:
    found = condition_in(step.status["conditions"], kind)
    return found.get("status", ""), found.get("reason", "")


def kinds(step: Plan) -> list[str]:
    return [child["kind"] for child in step.apply]


def test_a_new_server_gets_a_deployment_and_a_service() -> None:
    step = Scene().plan()
    assert kinds(step) == ["Deployment", "Service"]
    assert says(step, "Available") == ("False", "NotReady")
    assert says(step, "Progressing") == ("True", "RollingOut")
    assert "served" not in step.status


def test_at_rest_nothing_is_written() -> None:
    scene = serving()
    step = scene.plan(60)
    assert (step.apply, step.delete, step.events, step.again) == ([], [], [], None)
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
    assert (switch.delete, switch.again) == ([], SETTINGS.retire)
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


def test_a_switch_in_the_future_was_told_by_a_wrong_clock() -> None:
    scene = serving()
    scene.wants(NEW).step(40)
    scene.becomes_ready(NEW).step(3600)  # an hour ahead
    assert kinds(scene.step(50)) == ["Service"], "the time is put right"
    assert [each["metadata"]["name"] for each in scene.step(61).delete], "and the old revision goes when it is due"


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
    scene.world = scene.world._replace(refusal=Refusal("Deployment bot-x", "exceeded quota", final=False))
    step = scene.plan(60)
    assert says(step, "Degraded") == ("True", "Refused")
    assert "failed" not in step.status
    assert "exceeded quota" in condition_in(step.status["conditions"], "Degraded")["message"]


def test_drift_is_repaired() -> None:
    scene = serving()
    scene.deployment_of(OLD)["spec"]["replicas"] = 7
    assert kinds(scene.plan(60)) == ["Deployment"]


def job(**status: Any) -> Json:
    artifacts = [{"format": form, "uri": f"s3://a/{form}", "digest": OLD} for form in ("bf16", "int8")]
    spec = {"output": {"uri": "s3://a", "secretRef": {"name": "s3"}}}
    there: Json = {"metadata": {"name": "tune", "uid": "tune", "generation": 1}, "spec": spec}
    done = {
        "revision": revision(there),
        "conditions": [{"type": "Succeeded", "status": "True"}],
        "artifacts": artifacts,
        "recommended": {"format": "int8"},
    }
    return there | {"status": done | status}


@pytest.mark.parametrize(
    ("form", "found", "expected"),
    [
        ("recommended", job(), Artifact("s3://a/int8", OLD, "int8", "s3")),
        ("bf16", job(), Artifact("s3://a/bf16", OLD, "bf16", "s3")),
        ("gptq", job(), "FormatNotExported"),
        ("bf16", None, "WaitingForFineTuneJob"),
        ("bf16", job(revision="another"), "WaitingForFineTuneJob"),
        ("bf16", job(conditions=[]), "WaitingForFineTuneJob"),
        ("bf16", job(evaluation={"gates": [{"passed": False}]}), "GateFailed"),
    ],
)
def test_what_a_server_that_follows_a_job_serves(form: str, found: Json | None, expected: Artifact | str) -> None:
    source = ServedModelSource.model_validate({"fineTuneJobRef": {"name": "tune", "format": form}})
    artifact = find_artifact(source, found)
    assert (artifact.reason if isinstance(artifact, Missing) else artifact) == expected


def following(**status: Any) -> Scene:
    """Serves what a FineTuneJob has published."""
    scene = Scene()
    scene.server["spec"]["model"] = {"fineTuneJobRef": {"name": "tune"}}
    scene.world = scene.world._replace(job=job(**status))
    scene.step()
    scene.becomes_ready(OLD).step(30)
    return scene


def goes_on_serving(scene: Scene) -> str:
    """What it waits for meanwhile."""
    step = scene.step(60)
    assert (step.apply, step.delete) == ([], [])
    assert says(step, "Available") == ("True", "Serving")
    assert says(step, "Progressing") == ("False", "WaitingForFineTuneJob")
    return str(condition_in(step.status["conditions"], "Progressing")["message"])


def test_a_followed_job_that_is_gone_goes_on_being_served() -> None:
    """Deleted by a person, or by ttlSecondsAfterFinished."""
    scene = following()
    scene.world = scene.world._replace(job=None)
    assert "does not exist" in goes_on_serving(scene)


def test_a_followed_job_that_comes_back_with_the_same_artifact_changes_nothing() -> None:
    scene = following()
    scene.world = scene.world._replace(job=None)
    scene.step(60)
    scene.world = scene.world._replace(job=job())
    step = scene.step(70)
    assert (step.apply, step.delete) == ([], [])
    assert says(step, "Progressing") == ("False", "Completed")


def test_a_followed_job_of_which_only_the_lifetime_changes_is_still_followed() -> None:
    """Not even for the moment until its status has seen the new generation."""
    scene = following()
    followed = job()
    followed["spec"] |= {"ttlSecondsAfterFinished": 60, "suspend": True}
    followed["metadata"]["generation"] = 2
    scene.world = scene.world._replace(job=followed)
    step = scene.step(60)
    assert (step.apply, step.delete) == ([], [])
    assert says(step, "Progressing") == ("False", "Completed")


def test_a_reference_that_is_replaced_rolls_out_the_other_artifact() -> None:
    scene = following()
    scene.server["spec"]["model"] = {"uri": "s3://artifacts/x", "digest": NEW}
    step = scene.step(60)
    assert kinds(step) == ["Deployment"]
    assert NEW in str(step.apply)
    assert step.delete == [], "the old one serves until the new one is ready"


def test_a_new_server_image_is_a_new_revision() -> None:
    """As an upgrade of the operator brings it."""
    scene = serving()
    (new,) = plan(scene.world, SETTINGS._replace(server_image="server:2"), NOW).apply
    assert new["metadata"]["name"] != scene.deployment_of(OLD)["metadata"]["name"]
    assert "server:2" in str(new)


def test_while_the_job_trains_anew_the_served_revision_stays() -> None:
    scene = following()
    scene.world = scene.world._replace(job=job(conditions=[], phase="Training"))
    assert "Training" in goes_on_serving(scene)


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
    ],
)
def test_surge(situation: Situation, decision: Decision) -> None:
    assert surge(situation) == decision


def spec(**parts: Any) -> ModelServerSpec:
    return ModelServerSpec.model_validate({"model": {"uri": "s3://artifacts/x", "digest": OLD}} | parts)


def pod(**parts: Any) -> Json:
    return pod_spec(Scene().server, spec(**parts), Artifact("s3://artifacts/x", OLD, secret="s3"), SETTINGS)


def test_a_revision_is_its_pod_and_not_its_count() -> None:
    assert revision_of(pod(replicas=1)) == revision_of(pod(replicas=5))
    assert revision_of(pod()) != revision_of(pod(vllm={"maxModelLen": 512}))


def test_only_fetch_sees_the_stores_credentials_and_only_the_proxy_the_key() -> None:
    made = pod(auth={"apiKeySecretRef": {"name": "key"}})
    containers = {each["name"]: each for each in made["initContainers"] + made["containers"]}
    mounts = {name: {mount["name"] for mount in each["volumeMounts"]} for name, each in containers.items()}
    assert [name for name, seen in mounts.items() if "s3" in seen] == ["fetch"]
    assert [name for name, seen in mounts.items() if "auth" in seen] == ["proxy"]


def test_gpus_are_limits_of_the_engine_alone() -> None:
    made = pod(resources={"gpus": 2, "limits": {"cpu": "4"}})
    limits = {each["name"]: each["resources"]["limits"] for each in made["containers"]}
    assert limits["engine"] == {"cpu": "4", "nvidia.com/gpu": "2"}
    assert "nvidia.com/gpu" not in limits["proxy"]
    command = made["containers"][0]["command"]
    assert command[command.index("--tensor-parallel-size") + 1] == "2"
    assert not any(each["name"].startswith("VLLM_CPU") for each in made["containers"][0]["env"])


def test_every_container_is_restricted() -> None:
    made = pod()
    assert made["automountServiceAccountToken"] is False
    for container in made["initContainers"] + made["containers"]:
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_children_are_owned_and_carry_nothing_of_the_users_labels() -> None:
    scene = Scene()
    scene.server["metadata"]["labels"] = {"argocd.argoproj.io/instance": "app"}
    made = deployment(scene.server, spec(), Artifact("s3://artifacts/x", OLD), pod())
    front = service(scene.server, "abc", NOW)
    for child in (made, front):
        assert child["metadata"]["ownerReferences"][0]["uid"] == "server-uid"
        assert "argocd.argoproj.io/instance" not in child["metadata"]["labels"]
    assert front["metadata"]["annotations"][SWITCHED_AT] == "2026-01-01T12:00:00Z"
