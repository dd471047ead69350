"""A pod of train that is killed for its memory: the next one is told, by a new Job, and goes on with less."""

import pytest

from support.finetuning import FineTuning
from support.podstatus import termination
from tuneyard_api import reasons
from tuneyard_api.names import ENV_PODS_KILLED, EXIT_DOES_NOT_FIT
from tuneyard_operator.machinery.objects import uid


def killed(cluster: FineTuning) -> FineTuning:
    cluster.run("train").exit("train", 137, reason="OOMKilled")
    return cluster


def told(cluster: FineTuning) -> str | None:
    (container,) = cluster.job_of("train")["spec"]["template"]["spec"]["containers"]
    return next((item["value"] for item in container["env"] if item["name"] == ENV_PODS_KILLED), None)


@pytest.mark.lifecycle("killed-for-memory")
def test_the_next_pod_is_told() -> None:
    cluster = FineTuning().at("train")
    assert told(cluster) is None
    for count in (1, 2):
        before = cluster.job_of("train")
        step = killed(cluster).step()
        assert list(map(uid, step.delete)) == [uid(before)]
        (event,) = [event.message for event in step.events if event.warning]
        assert event.endswith("was killed for its memory, and the next one goes on with less")
        assert cluster.stage("train")["outOfMemory"] == count
        assert cluster.step().create
        assert told(cluster) == str(count)
    assert cluster.stage("train")["restarts"] == 2


def test_the_count_is_read_from_the_job() -> None:
    cluster = killed(FineTuning().at("train"))
    cluster.step()
    cluster.step()
    cluster.job.pop("status")
    cluster.step()
    assert cluster.stage("train")["outOfMemory"] == 1


def test_without_recovery_the_job_is_kept() -> None:
    cluster = FineTuning(training={"oomRecovery": False}).at("train")
    assert killed(cluster).step().delete == []


def test_what_fits_no_rung_fails_the_job() -> None:
    """The Job controller decides of a pod that has said so itself, also where the pod is deleted before it has."""
    cluster = FineTuning().at("train")
    cluster.run("train").exit("train", EXIT_DOES_NOT_FIT, termination(reasons.OUT_OF_MEMORY, "no rung is left"))
    cluster.step()
    cluster.remove_pod()
    assert cluster.step().delete == []


def test_another_stage_is_kept() -> None:
    cluster = FineTuning().at("export")
    cluster.run("export").exit("export", 137, reason="OOMKilled")
    assert cluster.step().delete == []
