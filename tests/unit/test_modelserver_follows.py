"""A ModelServer that follows a FineTuneJob: what it serves, and what it does when the job trains anew or goes."""

import pytest

from support.servingbuilders import NEW, OLD, Scene, following, job, kinds, says
from tuneyard_api.kinds.modelserver import ServedModelSource
from tuneyard_operator.machinery.objects import Json, condition_in
from tuneyard_operator.modelserver.artifact import Artifact, Missing, find_artifact

RELEASE = {"format": "bf16", "uri": "s3://a/bf16", "digest": NEW}


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


def test_a_first_revision_goes_on_coming_up_when_its_job_is_gone() -> None:
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
def test_a_release_that_comes_up_takes_over_whatever_becomes_of_its_job(meanwhile: Json | None) -> None:
    scene = following()
    scene.world = scene.world._replace(job=job(recommended={"format": "bf16"}, artifacts=[RELEASE]))
    assert kinds(scene.step(60)) == ["Deployment"]
    scene.world = scene.world._replace(job=meanwhile)
    step = scene.step(70)
    assert (step.apply, step.delete) == ([], [])
    assert says(step, "Progressing") == ("True", "RollingOut")
    assert kinds(scene.becomes_ready(NEW).step(80)) == ["Service"]
    assert scene.server["status"]["served"]["digest"] == NEW


def test_without_its_job_the_last_release_is_rolled_out_with_a_changed_option() -> None:
    scene = following()
    scene.world = scene.world._replace(job=None)
    scene.step(60)
    scene.server["spec"]["vllm"] = {"maxModelLen": 64}
    (changed,) = scene.step(70).apply
    assert OLD in str(changed)
    assert "--max-model-len" in str(changed)
    assert '"secretName": "s3"' in str(changed).replace("'", '"')


def test_the_last_release_is_known_by_what_serves_where_the_status_was_lost() -> None:
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


def test_while_the_job_trains_anew_the_served_revision_stays() -> None:
    scene = following()
    scene.world = scene.world._replace(job=job(conditions=[], phase="Training"))
    assert "Training" in goes_on_serving(scene)
