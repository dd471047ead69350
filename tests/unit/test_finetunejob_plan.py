"""What a FineTuneJob needs next, from what is in the cluster."""

import json

import pytest

from support.operatorbuilders import (
    ARTIFACT,
    CHAIN,
    DIGESTS,
    Cluster,
    finish,
    measurements,
    stages_with_jobs,
    termination,
)
from tuneyard_api.kinds.finetunejob_status import FineTuneJobStatus


class TestChain:
    def test_starts_with_prepare(self) -> None:
        cluster = Cluster()
        plan = cluster.step()
        assert [thing["kind"] for thing in plan.apply] == ["ConfigMap"]
        assert [thing["kind"] for thing in plan.create] == ["Job"]
        assert stages_with_jobs(cluster) == ["prepare"]
        assert cluster.status["phase"] == "Pending"
        assert not any("TUNEYARD_DIGESTS" in json.dumps(job) for job in cluster.jobs)

    def test_runs_all_stages_in_order(self) -> None:
        cluster = Cluster().prepared()
        assert stages_with_jobs(cluster) == ["prepare", "train"]
        finish(cluster, "train", "export", "evaluate")
        assert stages_with_jobs(cluster) == list(CHAIN)
        assert cluster.status["phase"] == "Publishing"
        finish(cluster, "publish")
        assert cluster.status["phase"] == "Succeeded"
        assert cluster.condition("Succeeded")["status"] == "True"
        assert not cluster.condition("Failed")
        assert cluster.status["artifacts"] == [ARTIFACT]
        assert cluster.status["recommended"]["format"] == "bf16"
        assert cluster.status["evaluation"]["measurements"] == measurements(base=9.0, tuned=3.0)
        assert cluster.status["evaluation"]["reportURI"].endswith("/evaluate/report.html")
        assert cluster.status["releaseURI"] == f"s3://out/runs/{DIGESTS['publish']}/publish/release.json"

    @pytest.mark.parametrize("finished", range(len(CHAIN) + 1))
    def test_second_reconcile_does_nothing(self, finished: int) -> None:
        """The operator may be restarted at any time. The status is valid by the API."""
        cluster = Cluster()
        if finished:
            cluster.prepared()
        else:
            cluster.step()
        finish(cluster, *CHAIN[1:finished])
        again = cluster.plan()
        assert again.status == cluster.status
        assert (again.apply, again.create, again.delete, again.events) == ([], [], [], [])
        FineTuneJobStatus.model_validate(again.status)

    @pytest.mark.lifecycle("status-lost")
    def test_lost_status_is_rebuilt(self) -> None:
        cluster = Cluster().prepared()
        finish(cluster, "train", "export")
        before = cluster.job.pop("status")
        plan = cluster.plan()
        assert plan.apply == plan.create == plan.delete == []
        assert plan.status["stages"] == before["stages"]
        assert plan.status["dataset"] == before["dataset"]

    def test_reused_stages_get_no_job(self) -> None:
        cluster = Cluster().prepared("prepare", "train", "export", "evaluate", "publish")
        assert stages_with_jobs(cluster) == ["prepare", "publish"], "publish sums up and always runs"
        assert cluster.stage("train") == {
            "name": "train",
            "state": "Adopted",
            "adopted": True,
            "digest": DIGESTS["train"],
        }
        finish(cluster, "publish")
        assert cluster.condition("Trained")["reason"] == "Adopted"
        assert cluster.status["phase"] == "Succeeded"

    def test_later_stages_have_the_digests(self) -> None:
        cluster = Cluster().prepared()
        finish(cluster, "train", "export", "evaluate")
        for stage in CHAIN[1:]:
            (container,) = cluster.job_of(stage)["spec"]["template"]["spec"]["containers"]
            variables = {each["name"]: each["value"] for each in container["env"]}
            assert json.loads(variables["TUNEYARD_DIGESTS"]) == DIGESTS

    def test_training_needs_no_report(self) -> None:
        cluster = Cluster().prepared()
        cluster.job_is("train", "Complete", succeeded=1)
        cluster.step()
        assert stages_with_jobs(cluster) == ["prepare", "train", "export"]

    def test_stage_runs_until_its_job_is_complete(self) -> None:
        cluster = Cluster()
        cluster.step()
        cluster.running("prepare")
        cluster.step()
        cluster.exited("prepare", 0, termination("Completed", "Written to s3://out/x."))
        cluster.step()
        assert cluster.status["phase"] == "Preparing"
        assert cluster.stage("prepare")["state"] == "Running"
        assert "message" not in cluster.stage("prepare")

    def test_changed_spec_waits_for_the_old_jobs(self) -> None:
        cluster = Cluster().prepared()
        finish(cluster, *CHAIN[1:])
        old = list(cluster.jobs)
        plan = cluster.changed(training={"maxSteps": 7}).plan()
        assert plan.delete == old
        assert plan.create == []
        assert plan.status["phase"] == "Pending"
        assert "artifacts" not in plan.status
        cluster.step()
        cluster.step()
        (fresh,) = cluster.jobs
        assert fresh["metadata"]["name"] not in {job["metadata"]["name"] for job in old}

    @pytest.mark.lifecycle("reapplied")
    def test_jobs_of_a_namesake_are_deleted_first(self) -> None:
        """Even those that an operator creates before it observes the deletion."""
        before = Cluster().prepared().running("train")
        cluster = Cluster()
        cluster.job["metadata"]["uid"] = "uid-y"
        cluster.jobs, cluster.pods = list(before.jobs), list(before.pods)
        plan = cluster.step()
        assert (plan.delete, plan.create) == (before.jobs, [])
        assert "to end: Job" in cluster.stage("prepare")["message"]
        finish(cluster.prepared(), *CHAIN[1:])
        cluster.jobs += before.jobs
        assert cluster.step().delete == before.jobs, "also when nothing else is left to do"
        assert cluster.status["phase"] == "Succeeded"

    @pytest.mark.lifecycle("reapplied")
    def test_training_waits_for_pods_of_a_namesake(self) -> None:
        """Two pods that write checkpoints of the same digest would disturb each other."""
        before = Cluster().prepared().running("train")
        cluster = Cluster()
        cluster.job["metadata"]["uid"] = "uid-y"
        cluster.pods = before.pods[-1:]
        cluster.prepared()
        assert stages_with_jobs(cluster) == ["prepare"]
        assert "waits until pod" in cluster.stage("train")["message"]
        cluster.pods = [pod for pod in cluster.pods if pod is not before.pods[-1]]
        cluster.step()
        assert stages_with_jobs(cluster) == ["prepare", "train"]
