"""A ModelServer that follows a FineTuneJob: what it serves, also when the job trains again or is deleted."""

import pytest

from support.servingbuilders import NEW, OLD, Scene, following, job, kinds, says
from tuneyard_api.base import SecretRef
from tuneyard_api.kinds.modelserver import Release, ServedModelSource
from tuneyard_operator.machinery.objects import Json, condition_in
from tuneyard_operator.modelserver.artifact import Waiting, find_release

RELEASE = {"format": "bf16", "uri": "s3://a/bf16", "digest": NEW}


def release(form: str) -> Release:
    return Release(uri=f"s3://a/{form}", digest=OLD, format=form, secret_ref=SecretRef(name="s3"))


@pytest.mark.parametrize(
    ("form", "found", "expected"),
    [
        ("recommended", job(), release("int8")),
        ("bf16", job(), release("bf16")),
        ("gptq", job(), "FormatNotExported"),
        ("bf16", None, "WaitingForFineTuneJob"),
        ("bf16", job(revision="another"), "WaitingForFineTuneJob"),
        ("bf16", job(conditions=[]), "WaitingForFineTuneJob"),
        ("bf16", job(evaluation={"gates": [{"passed": True}], "gatesPassed": 1, "gatesFailed": 1}), "GateFailed"),
        ("bf16", job(evaluation={"gates": [], "gatesPassed": 2, "gatesFailed": 0}), release("bf16")),
        ("bf16", job(evaluation={"gates": [{"passed": False}]}), "GateFailed"),  # by an older operator
        ("bf16", job(evaluation={"gates": [{"passed": True}]}), release("bf16")),
    ],
)
def test_find_release(form: str, found: Json | None, expected: Release | str) -> None:
    source = ServedModelSource.model_validate({"fineTuneJobRef": {"name": "tune", "format": form}})
    result = find_release(source, found)
    assert (result.reason if isinstance(result, Waiting) else result) == expected


def goes_on_serving(scene: Scene) -> str:
    """What it waits for meanwhile."""
    step = scene.step(60)
    assert (step.apply, step.delete) == ([], [])
    assert says(step, "Available") == ("True", "Serving")
    assert says(step, "Progressing") == ("False", "WaitingForFineTuneJob")
    return str(condition_in(step.status["conditions"], "Progressing")["message"])


@pytest.mark.lifecycle("followed-job-deleted")
def test_followed_job_deleted() -> None:
    """Deleted by a person, or by ttlSecondsAfterFinished."""
    scene = following()
    scene.world = scene.world._replace(job=None)
    assert "does not exist" in goes_on_serving(scene)


@pytest.mark.lifecycle("followed-job-deleted-first-rollout")
def test_followed_job_deleted_during_first_rollout() -> None:
    """Loading takes longer than ttlSecondsAfterFinished, for example."""
    scene = Scene()
    scene.server["spec"] |= {"model": {"fineTuneJobRef": {"name": "tune"}}}
    scene.world = scene.world._replace(job=job())
    scene.step()
    scene.world = scene.world._replace(job=None)
    step = scene.step(60)
    assert (step.apply, step.delete) == ([], [])
    assert says(step, "Progressing") == ("True", "RollingOut")
    step = scene.becomes_ready(OLD).step(90)
    assert says(step, "Available") == ("True", "Serving")
    assert says(step, "Progressing") == ("False", "WaitingForFineTuneJob")


@pytest.mark.parametrize("meanwhile", [None, job(conditions=[], phase="Training")])
@pytest.mark.lifecycle("followed-job-changes-during-rollout")
def test_followed_job_changes_during_rollout(meanwhile: Json | None) -> None:
    scene = following()
    scene.world = scene.world._replace(job=job(recommended={"format": "bf16"}, artifacts=[RELEASE]))
    assert kinds(scene.step(60)) == ["Deployment"]
    scene.world = scene.world._replace(job=meanwhile)
    step = scene.step(70)
    assert (step.apply, step.delete) == ([], [])
    assert says(step, "Progressing") == ("True", "RollingOut")
    assert kinds(scene.becomes_ready(NEW).step(80)) == ["Service"]
    assert scene.server["status"]["served"]["digest"] == NEW


@pytest.mark.lifecycle("options-changed-without-job")
def test_option_changed_after_job_deleted() -> None:
    scene = following()
    scene.world = scene.world._replace(job=None)
    scene.step(60)
    scene.server["spec"]["vllm"] = {"maxModelLen": 64}
    (changed,) = scene.step(70).apply
    assert OLD in str(changed)
    assert '"maxModelLen": 64' in str(changed)
    assert '"secretName": "s3"' in str(changed).replace("'", '"')


def test_release_survives_lost_status() -> None:
    scene = following()
    scene.world = scene.world._replace(job=None)
    scene.server["status"] = {}
    assert "does not exist" in goes_on_serving(scene)
    assert scene.server["status"]["release"] == {
        "uri": "s3://a/int8",
        "digest": OLD,
        "format": "int8",
        "secretRef": {"name": "s3"},
    }


@pytest.mark.lifecycle("followed-job-recreated")
def test_followed_job_recreated_with_same_artifact() -> None:
    scene = following()
    scene.world = scene.world._replace(job=None)
    scene.step(60)
    scene.world = scene.world._replace(job=job())
    step = scene.step(70)
    assert (step.apply, step.delete) == ([], [])
    assert says(step, "Progressing") == ("False", "Completed")


@pytest.mark.lifecycle("followed-job-lifetime-changed")
def test_followed_job_lifetime_changed() -> None:
    """Not even for the moment until its status has seen the new generation."""
    scene = following()
    followed = job()
    followed["spec"] |= {"ttlSecondsAfterFinished": 60, "suspend": True}
    followed["metadata"]["generation"] = 2
    scene.world = scene.world._replace(job=followed)
    step = scene.step(60)
    assert (step.apply, step.delete) == ([], [])
    assert says(step, "Progressing") == ("False", "Completed")


@pytest.mark.lifecycle("gate-failed")
def test_release_with_a_failed_gate() -> None:
    """The list of gates was shortened, and the failed one is not part of it."""
    scene = following()
    evaluation = {"gates": [{"passed": True}], "gatesPassed": 15, "gatesFailed": 1}
    scene.world = scene.world._replace(job=job(artifacts=[RELEASE], recommended=RELEASE, evaluation=evaluation))
    step = scene.step(60)
    assert (step.apply, step.delete) == ([], [])
    assert says(step, "Progressing") == ("False", "GateFailed")
    assert says(step, "Available") == ("True", "Serving")


@pytest.mark.lifecycle("reference-replaced")
def test_reference_replaced() -> None:
    scene = following()
    scene.server["spec"]["model"] = {"uri": "s3://artifacts/x", "digest": NEW}
    step = scene.step(60)
    assert kinds(step) == ["Deployment"]
    assert NEW in str(step.apply)
    assert step.delete == [], "the old one serves until the new one is ready"


@pytest.mark.lifecycle("followed-job-trains-again")
def test_followed_job_trains_again() -> None:
    scene = following()
    scene.world = scene.world._replace(job=job(conditions=[], phase="Training"))
    assert "Training" in goes_on_serving(scene)
