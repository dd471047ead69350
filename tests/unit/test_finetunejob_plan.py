"""What a FineTuneJob needs next, from what is in the cluster."""

import json

import pytest

from support.operatorbuilders import ARTIFACT, CHAIN, DIGESTS, Cluster, finish, measurements, said, stages_with_jobs
from tuneyard_api.kinds.finetunejob_status import FineTuneJobStatus


class TestChain:
    def test_begins_with_prepare_and_nothing_else(self) -> None:
        cluster = Cluster()
        plan = cluster.step()
        assert [thing["kind"] for thing in plan.apply] == ["ConfigMap"]
        assert [thing["kind"] for thing in plan.create] == ["Job"]
        assert stages_with_jobs(cluster) == ["prepare"]
        assert cluster.status["phase"] == "Pending"
        assert not any("TUNEYARD_DIGESTS" in json.dumps(job) for job in cluster.jobs)

    def test_runs_all_stages_in_order_and_succeeds(self) -> None:
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
    def test_a_second_look_does_nothing(self, finished: int) -> None:
        """The operator may be killed and started at any time; the status is one that the API takes."""
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
    def test_a_lost_status_is_made_anew_from_the_children(self) -> None:
        cluster = Cluster().prepared()
        finish(cluster, "train", "export")
        before = cluster.job.pop("status")
        plan = cluster.plan()
        assert plan.apply == plan.create == plan.delete == []
        assert plan.status["stages"] == before["stages"]
        assert plan.status["dataset"] == before["dataset"]

    def test_stages_that_an_earlier_run_has_done_get_no_job(self) -> None:
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

    def test_digests_go_to_every_later_stage(self) -> None:
        cluster = Cluster().prepared()
        finish(cluster, "train", "export", "evaluate")
        for stage in CHAIN[1:]:
            (container,) = cluster.job_of(stage)["spec"]["template"]["spec"]["containers"]
            variables = {each["name"]: each["value"] for each in container["env"]}
            assert json.loads(variables["TUNEYARD_DIGESTS"]) == DIGESTS

    def test_training_that_went_with_its_pod_is_not_made_again(self) -> None:
        cluster = Cluster().prepared()
        cluster.job_is("train", "Complete", succeeded=1)
        cluster.step()
        assert stages_with_jobs(cluster) == ["prepare", "train", "export"]

    def test_an_ended_pod_whose_job_is_not_complete_still_runs(self) -> None:
        cluster = Cluster()
        cluster.step()
        cluster.running("prepare")
        cluster.step()
        cluster.exited("prepare", 0, said("Completed", "Written to s3://out/x."))
        cluster.step()
        assert cluster.status["phase"] == "Preparing"
        assert cluster.stage("prepare")["state"] == "Running"
        assert "message" not in cluster.stage("prepare")

    def test_a_changed_spec_starts_over_when_the_old_jobs_are_gone(self) -> None:
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
    def test_jobs_that_a_deleted_namesake_has_left_go_first(self) -> None:
        """Also those that are made for it when it is gone, by an operator that has not heard of that."""
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
    def test_training_waits_for_the_pods_of_a_deleted_namesake(self) -> None:
        """Two that write checkpoints of one digest would disturb each other."""
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
