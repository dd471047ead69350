"""What a FineTuneJob needs next, from what is in the cluster."""

import json
from copy import deepcopy

import pytest

from support.finetuning import FineTuning, stages_of
from support.podstatus import termination
from support.reports import ARTIFACT, CHAIN, DIGESTS, PREPARED, measurements
from tuneyard_api import names
from tuneyard_api.kinds.finetunejob_status import FineTuneJobStatus
from tuneyard_operator.finetunejob.controller import without_template
from tuneyard_operator.machinery.objects import name, uid


class TestChain:
    def test_starts_with_prepare(self) -> None:
        cluster = FineTuning()
        plan = cluster.step()
        assert [child["kind"] for child in plan.apply] == ["ConfigMap"]
        assert [child["kind"] for child in plan.create] == ["Job"]
        assert stages_of(cluster.jobs) == ["prepare"]
        assert cluster.status["phase"] == "Pending"
        assert not any("TUNEYARD_DIGESTS" in json.dumps(job) for job in cluster.jobs)

    def test_runs_all_stages_in_order(self) -> None:
        cluster = FineTuning().prepared()
        assert stages_of(cluster.jobs) == ["prepare", "train"]
        cluster.finish("train", "export", "evaluate")
        assert stages_of(cluster.jobs) == list(CHAIN)
        assert cluster.status["phase"] == "Publishing"
        cluster.finish("publish")
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
        cluster = FineTuning()
        if finished:
            cluster.prepared()
        else:
            cluster.step()
        cluster.finish(*CHAIN[1:finished])
        again = cluster.dry_run()
        assert again.status == cluster.status
        assert (again.apply, again.create, again.delete, again.events) == ([], [], [], [])
        FineTuneJobStatus.model_validate(again.status)

    @pytest.mark.lifecycle("status-lost")
    def test_lost_status_is_rebuilt(self) -> None:
        cluster = FineTuning().prepared()
        cluster.finish("train", "export")
        before = cluster.job.pop("status")
        plan = cluster.dry_run()
        assert plan.apply == plan.create == plan.delete == []
        assert plan.status["stages"] == before["stages"]
        assert plan.status["dataset"] == before["dataset"]

    def test_reused_stages_get_no_job(self) -> None:
        cluster = FineTuning().prepared("prepare", "train", "export", "evaluate", "publish")
        assert stages_of(cluster.jobs) == ["prepare", "publish"], "publish sums up and always runs"
        assert cluster.stage("train") == {
            "name": "train",
            "state": "Adopted",
            "adopted": True,
            "digest": DIGESTS["train"],
        }
        cluster.finish("publish")
        assert cluster.condition("Trained")["reason"] == "Adopted"
        assert cluster.status["phase"] == "Succeeded"

    def test_later_stages_have_the_digests(self) -> None:
        cluster = FineTuning().prepared()
        cluster.finish("train", "export", "evaluate")
        for stage in CHAIN[1:]:
            (container,) = cluster.job_of(stage)["spec"]["template"]["spec"]["containers"]
            variables = {item["name"]: item["value"] for item in container["env"]}
            assert json.loads(variables["TUNEYARD_DIGESTS"]) == DIGESTS

    def test_training_needs_no_report(self) -> None:
        cluster = FineTuning().prepared()
        cluster.complete_job("train")
        cluster.step()
        assert stages_of(cluster.jobs) == ["prepare", "train", "export"]

    def test_no_stage_waits_for_the_job_controller(self) -> None:
        cluster = FineTuning()
        cluster.step()
        cluster.run("prepare")
        cluster.step()
        cluster.exit("prepare", 0, termination("Completed", result=PREPARED))
        cluster.step()
        assert stages_of(cluster.jobs) == ["prepare", "train"]
        before = cluster.stage("prepare")
        assert before["state"] == "Succeeded"
        cluster.complete_job("prepare")
        cluster.step()
        assert cluster.stage("prepare") == before

    def test_a_stage_of_several_nodes_has_succeeded_with_the_last_of_its_pods(self) -> None:
        cluster = FineTuning(resources={"nodes": 2, "gpus": 1}).prepared()
        pods = [cluster.create_pod("train"), cluster.create_pod("train")]
        for index, pod in enumerate(pods):
            assert stages_of(cluster.jobs) == ["prepare", "train"]
            pod["metadata"].setdefault("annotations", {})[names.ANNOTATION_INDEX] = str(index)
            cluster.kubelet.exit(pod, 0, termination("Completed"))
            cluster.step()
        assert stages_of(cluster.jobs) == ["prepare", "train", "export"]

    def test_changed_spec_waits_for_the_old_jobs(self) -> None:
        cluster = FineTuning().prepared()
        cluster.finish(*CHAIN[1:])
        old = sorted(cluster.jobs, key=name)
        plan = cluster.change(training={"maxSteps": 7}).dry_run()
        assert plan.delete == list(map(without_template, old))
        assert plan.create == []
        assert plan.status["phase"] == "Pending"
        assert "artifacts" not in plan.status
        cluster.step()
        cluster.step()
        (fresh,) = cluster.jobs
        assert name(fresh) not in map(name, old)

    @pytest.mark.lifecycle("reapplied")
    def test_jobs_of_a_namesake_are_deleted_first(self) -> None:
        """Even those that an operator creates before it observes the deletion."""
        cluster = FineTuning().prepared().run("train")
        before = deepcopy(sorted(cluster.jobs, key=name))
        cluster.remove(cluster.job)
        cluster.apply_again()
        plan = cluster.step()
        assert (list(map(name, plan.delete)), plan.create) == (list(map(name, before)), [])
        assert "to end: Job" in cluster.stage("prepare")["message"]
        cluster.prepared().finish(*CHAIN[1:])
        late = [cluster.create(job) for job in before]
        assert list(map(uid, cluster.step().delete)) == list(map(uid, late)), "also when nothing else is left to do"
        assert cluster.status["phase"] == "Succeeded"

    @pytest.mark.lifecycle("reapplied")
    def test_training_waits_for_pods_of_a_namesake(self) -> None:
        """Two pods that write checkpoints of the same digest would disturb each other."""
        cluster = FineTuning().prepared().run("train")
        (pod,) = cluster.pods_of_stage("train")
        cluster.delete(cluster.job)
        cluster.apply_again()
        cluster.prepared()
        assert stages_of(cluster.jobs) == ["prepare"]
        assert "waits until pod" in cluster.stage("train")["message"]
        cluster.remove(pod)
        cluster.step()
        assert stages_of(cluster.jobs) == ["prepare", "train"]
