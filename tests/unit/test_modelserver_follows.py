"""A ModelServer that follows a FineTuneJob: what it serves, also when the job trains again or is deleted."""

from collections.abc import Callable

import pytest

from support.builders import NEW, OLD, artifact, released
from support.serving import FOLLOWS, Serving, condition_of, following, kinds
from tuneyard_api.base import SecretRef
from tuneyard_api.kinds.modelserver import Release, ServedModelSource
from tuneyard_operator.machinery.objects import Json, condition_in
from tuneyard_operator.modelserver.artifact import Waiting, find_release


def release(form: str) -> Release:
    return Release(uri=f"s3://a/{form}", digest=OLD, format=form, secret_ref=SecretRef(name="keys"))


@pytest.mark.parametrize(
    ("form", "found", "expected"),
    [
        ("recommended", released(), release("int8")),
        ("bf16", released(), release("bf16")),
        ("gptq", released(), "FormatNotExported"),
        ("recommended", released(recommended={}, artifacts=[]), "FormatNotExported"),  # a job without export
        ("bf16", None, "WaitingForFineTuneJob"),
        ("bf16", released(revision="another"), "WaitingForFineTuneJob"),
        ("bf16", released(conditions=[]), "WaitingForFineTuneJob"),
        ("bf16", released(evaluation={"gates": [{"passed": True}], "gatesPassed": 1, "gatesFailed": 1}), "GateFailed"),
        ("bf16", released(evaluation={"gates": [], "gatesPassed": 2, "gatesFailed": 0}), release("bf16")),
        ("bf16", released(evaluation={"gates": [{"passed": False}]}), "GateFailed"),  # by an older operator
        ("bf16", released(evaluation={"gates": [{"passed": True}]}), release("bf16")),
    ],
)
def test_find_release(form: str, found: Json | None, expected: Release | str) -> None:
    source = ServedModelSource.model_validate({"fineTuneJobRef": {"name": "tune", "format": form}})
    result = find_release(source, found)
    assert (result.reason if isinstance(result, Waiting) else result) == expected


def goes_on_serving(cluster: Serving) -> str:
    """What it waits for meanwhile."""
    step = cluster.step(60)
    assert (step.apply, step.delete) == ([], [])
    assert condition_of(step, "Available") == ("True", "Serving")
    assert condition_of(step, "Progressing") == ("False", "WaitingForFineTuneJob")
    return str(condition_in(step.status["conditions"], "Progressing")["message"])


@pytest.mark.lifecycle("followed-job-deleted")
def test_followed_job_deleted() -> None:
    """Deleted by a person, or by ttlSecondsAfterFinished."""
    cluster = following()
    cluster.delete_job()
    assert "does not exist" in goes_on_serving(cluster)


@pytest.mark.lifecycle("followed-job-deleted-first-rollout")
def test_followed_job_deleted_during_first_rollout() -> None:
    """Loading takes longer than ttlSecondsAfterFinished, for example."""
    cluster = Serving(FOLLOWS)
    cluster.publish()
    cluster.step(0)
    cluster.delete_job()
    step = cluster.step(60)
    assert (step.apply, step.delete) == ([], [])
    assert condition_of(step, "Progressing") == ("True", "RollingOut")
    step = cluster.become_ready(OLD).step(90)
    assert condition_of(step, "Available") == ("True", "Serving")
    assert condition_of(step, "Progressing") == ("False", "WaitingForFineTuneJob")


@pytest.mark.parametrize("change", [Serving.delete_job, Serving.train])
@pytest.mark.lifecycle("followed-job-changes-during-rollout")
def test_followed_job_changes_during_rollout(change: Callable[[Serving], object]) -> None:
    cluster = following()
    cluster.publish(NEW)
    assert kinds(cluster.step(60)) == ["Deployment"]
    change(cluster)
    step = cluster.step(70)
    assert (step.apply, step.delete) == ([], [])
    assert condition_of(step, "Progressing") == ("True", "RollingOut")
    assert kinds(cluster.become_ready(NEW).step(80)) == ["Service"]
    assert cluster.server["status"]["served"]["digest"] == NEW


@pytest.mark.lifecycle("options-changed-without-job")
def test_option_changed_after_job_deleted() -> None:
    cluster = following()
    cluster.delete_job()
    cluster.step(60)
    cluster.server["spec"]["vllm"] = {"maxModelLen": 64}
    (changed,) = cluster.step(70).apply
    assert OLD in str(changed)
    assert '"maxModelLen": 64' in str(changed)
    assert '"secretName": "keys"' in str(changed).replace("'", '"')


def test_release_survives_lost_status() -> None:
    cluster = following()
    cluster.delete_job()
    cluster.server["status"] = {}
    assert "does not exist" in goes_on_serving(cluster)
    assert cluster.server["status"]["release"] == {
        "uri": "s3://a/int8",
        "digest": OLD,
        "format": "int8",
        "secretRef": {"name": "keys"},
    }


@pytest.mark.lifecycle("followed-job-recreated")
def test_followed_job_recreated_with_same_artifact() -> None:
    cluster = following()
    cluster.delete_job()
    cluster.step(60)
    cluster.publish()
    step = cluster.step(70)
    assert (step.apply, step.delete) == ([], [])
    assert condition_of(step, "Progressing") == ("False", "Completed")


@pytest.mark.lifecycle("followed-job-lifetime-changed")
def test_followed_job_lifetime_changed() -> None:
    """Not even for the moment until its status has seen the new generation."""
    cluster = following()
    followed = cluster.get("FineTuneJob", "tune")
    assert followed
    followed["spec"] |= {"ttlSecondsAfterFinished": 60, "suspend": True}
    step = cluster.step(60)
    assert (step.apply, step.delete) == ([], [])
    assert condition_of(step, "Progressing") == ("False", "Completed")


@pytest.mark.lifecycle("gate-failed")
def test_release_with_a_failed_gate() -> None:
    """The list of gates was shortened, and the failed one is not part of it."""
    cluster = following()
    evaluation = {"gates": [{"passed": True}], "gatesPassed": 15, "gatesFailed": 1}
    cluster.publish(NEW, evaluation=evaluation)
    step = cluster.step(60)
    assert (step.apply, step.delete) == ([], [])
    assert condition_of(step, "Progressing") == ("False", "GateFailed")
    assert condition_of(step, "Available") == ("True", "Serving")


@pytest.mark.lifecycle("reference-replaced")
def test_reference_replaced() -> None:
    cluster = following()
    cluster.change(model=artifact(NEW))
    step = cluster.step(60)
    assert kinds(step) == ["Deployment"]
    assert NEW in str(step.apply)
    assert step.delete == [], "the old one serves until the new one is ready"


@pytest.mark.lifecycle("followed-job-trains-again")
def test_followed_job_trains_again() -> None:
    cluster = following()
    cluster.train()
    assert "Training" in goes_on_serving(cluster)
