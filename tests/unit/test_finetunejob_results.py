"""What stages report: read as contracts, lost with its pod, too large, or of another version."""

from datetime import timedelta

import pytest

from support.operatorbuilders import (
    CHAIN,
    DIGESTS,
    PREPARED,
    PUBLISHED,
    Cluster,
    finish,
    stages_with_jobs,
    termination,
)
from tuneyard_api.kinds.finetunejob_status import FineTuneJobStatus
from tuneyard_api.names import EXIT_BAD_INPUT, Stage
from tuneyard_operator.finetunejob.policies import LOST_WITH_POD, RERUNS
from tuneyard_operator.machinery.objects import Json


def at(stage: Stage) -> Cluster:
    """A FineTuneJob whose stage has a Job without a pod."""
    cluster = Cluster()
    cluster.step()
    if stage != "prepare":
        cluster = Cluster().prepared()
        finish(cluster, *CHAIN[1 : CHAIN.index(stage)])
    return cluster


def lost(cluster: Cluster, stage: Stage) -> None:
    """The stage has succeeded, and its pod is gone."""
    cluster.job_is(stage, "Complete", succeeded=1)


def reruns(cluster: Cluster, stage: Stage) -> list[float]:
    """Loses the result until the run has failed; the seconds before each rerun."""
    delays = []
    for _ in range(RERUNS):
        lost(cluster, stage)
        cluster.job_of(stage)["status"]["completionTime"] = f"{cluster.now:%Y-%m-%dT%H:%M:%SZ}"
        waited = 0.0
        while not (step := cluster.step()).delete:
            assert step.create == []
            assert step.requeue_after is not None
            cluster.now += timedelta(seconds=step.requeue_after)
            waited += step.requeue_after
        delays.append(waited)
        cluster.step()
    return delays


@pytest.mark.lifecycle("reason-lost-on-cpu")
@pytest.mark.parametrize("stage", ["prepare", "publish"])
class TestLostResult:
    def test_stage_runs_again(self, stage: Stage) -> None:
        cluster = at(stage)
        lost(cluster, stage)
        assert [job["metadata"]["labels"]["tuneyard.dev/stage"] for job in cluster.step().delete] == [stage]
        assert cluster.stage(stage)["state"] == "Pending"
        assert cluster.stage(stage)["message"] == f"Recreating the Job: its result is lost, {LOST_WITH_POD}"
        assert cluster.stage(stage)["reruns"] == 1
        FineTuneJobStatus.model_validate(cluster.status)
        cluster.step()
        assert stages_with_jobs(cluster)[-1] == stage
        cluster.completed(stage, PREPARED if stage == "prepare" else PUBLISHED).step()
        assert cluster.stage(stage)["state"] == "Succeeded"

    def test_reruns_are_delayed_and_bounded(self, stage: Stage) -> None:
        cluster = at(stage)
        assert reruns(cluster, stage) == pytest.approx([0, 10, 20], abs=2)
        lost(cluster, stage)
        assert cluster.step().delete == []
        failed = cluster.condition("Failed")
        assert failed["reason"] == "ResultLost"
        assert f"{stage} has succeeded {RERUNS + 1} times" in failed["message"]
        assert cluster.stage(stage)["state"] == "Failed"
        assert cluster.condition("DatasetReady" if stage == "prepare" else "Published")["status"] == "False"


def test_reruns_are_counted_although_the_status_is_lost() -> None:
    cluster = at("prepare")
    reruns(cluster, "prepare")
    cluster.job.pop("status")
    lost(cluster, "prepare")
    cluster.step()
    assert cluster.condition("Failed")["reason"] == "ResultLost"


def test_lost_reasons_are_bounded_too() -> None:
    cluster = at("export")
    for _ in range(RERUNS):
        cluster.now += timedelta(hours=1)
        cluster.job_is("export", "Failed", failed=1)
        assert cluster.step().delete
        cluster.step()
    cluster.job_is("export", "Failed", failed=1).step()
    assert cluster.condition("Failed")["reason"] == "ReasonLost"


@pytest.mark.parametrize(
    ("stage", "result"),
    [
        ("prepare", {"digest": "old"}),
        ("prepare", None),
        ("prepare", PREPARED | {"digests": {"prepare": "0" * 64}}),
        ("evaluate", {"perplexity": {"base": 3.0}}),
        ("publish", None),
        ("publish", PUBLISHED | {"recommended": {"format": "gptq", "reason": "smallest"}}),
        ("publish", PUBLISHED | {"artifacts": [{"format": "bf16"}]}),
    ],
)
def test_result_of_another_version_is_a_failure(stage: Stage, result: Json | None) -> None:
    cluster = at(stage)
    cluster.completed(stage, result).step()
    failed = cluster.condition("Failed")
    assert failed["reason"] == "StageCrashed"
    assert f"The result of {stage} cannot be read: " in failed["message"]
    assert failed["message"].endswith("Are the images of operator and trainer of the same version?")
    assert cluster.stage(stage)["state"] == "Failed"
    assert cluster.plan().delete == []


@pytest.mark.parametrize("stage", CHAIN)
def test_too_large_result_is_a_failure(stage: Stage) -> None:
    cluster = at(stage)
    cluster.running(stage).exited(stage, 0, termination("ResultTooLarge", "Too many bytes", "Use fewer gates."))
    cluster.job_is(stage, "Complete", succeeded=1).step()
    assert cluster.condition("Failed")["reason"] == "ResultTooLarge"
    assert cluster.condition("Failed")["message"] == "Too many bytes. Use fewer gates."


def test_reused_evaluation_reports_nothing() -> None:
    cluster = at("evaluate")
    cluster.completed("evaluate", None, reason="Adopted").step()
    assert cluster.condition("Evaluated")["reason"] == "Adopted"
    assert "evaluation" not in cluster.status


def test_unreadable_gates_leave_the_reason_of_the_failure() -> None:
    cluster = at("evaluate")
    cluster.running("evaluate").exited("evaluate", EXIT_BAD_INPUT, termination("GateFailed", "9 > 7", result={"x": 1}))
    cluster.job_is("evaluate", "Failed").step()
    assert cluster.condition("Failed")["reason"] == "GateFailed"


def test_uris_follow_from_the_digests() -> None:
    cluster = at("publish")
    finish(cluster, "publish")
    status = cluster.status
    assert status["dataset"]["reportURI"] == f"s3://out/runs/{DIGESTS['prepare']}/prepare/report.md"
    assert status["evaluation"]["reportURI"] == f"s3://out/runs/{DIGESTS['evaluate']}/evaluate/report.html"
    assert status["artifacts"][0]["uri"] == f"s3://out/runs/{DIGESTS['export']}/export/bf16"
    assert status["recommended"]["uri"] == status["artifacts"][0]["uri"]
    assert status["progress"] == {"percent": 100, "loss": 1.2346}
