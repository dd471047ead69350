"""Training over several nodes, as the operator asks for it and as the status tells it."""

from typing import Any

import pytest

from support.operatorbuilders import DIGESTS, SETTINGS, Cluster, fine_tune_job, said
from tuneyard_api.contracts.progress import ProgressReport
from tuneyard_api.kinds.finetunejob import FineTuneJobSpec
from tuneyard_api.kinds.finetunejob_status import FineTuneJobStatus
from tuneyard_api.names import ANNOTATION_INDEX, Stage
from tuneyard_api.stages import STAGES
from tuneyard_operator.finetunejob.children import FAILURE_POLICY, labels, stage_job, stage_services
from tuneyard_operator.finetunejob.observe import running_pod_ip
from tuneyard_operator.machinery.objects import Json, name

TWO: Json = {"resources": {"nodes": 2}}
UNSCHEDULABLE: Json = {
    "type": "PodScheduled",
    "status": "False",
    "reason": "Unschedulable",
    "message": "0/3 nodes are available",
}
LOST = said("PeerLost", "Another node is gone.")


def built(stage: Stage, **spec: Any) -> Json:
    job = fine_tune_job(**spec)
    return stage_job(job, FineTuneJobSpec.model_validate(job["spec"]), stage, DIGESTS, SETTINGS)


def environment(job: Json) -> dict[str, str]:
    (container,) = job["spec"]["template"]["spec"]["containers"]
    return {each["name"]: each["value"] for each in container["env"]}


def training(nodes: int = 2, **spec: Any) -> Cluster:
    """Up to the Job of training, which has no pods yet."""
    return Cluster(resources={"nodes": nodes}, **spec).prepared()


def runs(cluster: Cluster, number: int) -> None:
    cluster.running("train")
    cluster.pods[-1]["metadata"]["annotations"] = {ANNOTATION_INDEX: str(number)}
    cluster.pods[-1]["status"]["podIP"] = f"10.0.0.{number}"


def ends(cluster: Cluster, number: int, code: int, message: str = "") -> None:
    runs(cluster, number)
    cluster.exited("train", code, message)


class TestChildren:
    def test_one_job_with_a_pod_for_each_node(self) -> None:
        spec = built("train", resources={"nodes": 4}, retryPolicy={"backoffLimit": 2})["spec"]
        assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 4, 4)
        assert spec["podReplacementPolicy"] == "Failed"
        assert spec["podFailurePolicy"] == {"rules": FAILURE_POLICY}

    def test_a_crash_that_ends_all_pods_is_one_crash(self) -> None:
        spec = built("train", retryPolicy={"backoffLimit": 2}, **TWO)["spec"]
        assert (spec["backoffLimitPerIndex"], spec["maxFailedIndexes"]) == (2, 0)
        assert "backoffLimit" not in spec

    def test_pods_know_where_the_first_one_is(self) -> None:
        job = built("train", **TWO)
        assert job["spec"]["template"]["spec"]["subdomain"] == name(job)
        assert environment(job)["MASTER_ADDR"] == f"{name(job)}-0.{name(job)}"
        assert environment(job)["MASTER_PORT"] == "29500"

    def test_the_longest_name_fits_into_host_names(self) -> None:
        job = fine_tune_job(resources={"nodes": 64}, training={"effectiveBatchSize": 64})
        job["metadata"]["name"] = "x" * 44
        made = stage_job(job, FineTuneJobSpec.model_validate(job["spec"]), "train", DIGESTS, SETTINGS)
        assert len(f"{name(made)}-63") <= 63

    def test_a_headless_service_names_them_before_they_are_ready(self) -> None:
        job = fine_tune_job(**TWO)
        (service,) = stage_services(job, FineTuneJobSpec.model_validate(job["spec"]), "train")
        assert name(service) == name(built("train", **TWO))
        assert service["spec"]["clusterIP"] == "None"
        assert service["spec"]["publishNotReadyAddresses"] is True
        assert service["spec"]["selector"] == labels(job, "train")
        assert service["metadata"]["ownerReferences"][0]["uid"] == "uid-x"

    @pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "train"])
    def test_the_other_stages_have_one_pod(self, stage: Stage) -> None:
        assert built(stage, **TWO)["spec"] | {"template": {}} == built(stage)["spec"] | {"template": {}}
        assert "MASTER_ADDR" not in environment(built(stage, **TWO))

    def test_one_node_is_as_it_was(self) -> None:
        job = built("train", resources={"nodes": 1})
        assert job["spec"]["backoffLimit"] == 3
        assert "completionMode" not in job["spec"]
        assert "subdomain" not in job["spec"]["template"]["spec"]
        assert "MASTER_ADDR" not in environment(job)

    def test_all_stages_have_the_priority(self) -> None:
        for stage in STAGES:
            pod = built(stage, priorityClassName="urgent")["spec"]["template"]["spec"]
            assert pod["priorityClassName"] == "urgent"


class TestWaiting:
    def test_the_service_comes_with_the_job(self) -> None:
        cluster = training()
        assert [name(each) for each in cluster.services] == [name(cluster.job_of("train"))]

    @pytest.mark.lifecycle("service-deleted")
    def test_a_service_that_somebody_deleted_comes_back(self) -> None:
        cluster = training()
        runs(cluster, 0)
        cluster.services.clear()
        assert [each["kind"] for each in cluster.step().apply] == ["Service"]
        assert cluster.plan().apply == []

    @pytest.mark.lifecycle("nodes-missing")
    def test_says_how_many_pods_run_and_what_the_others_lack(self) -> None:
        cluster = training(4)
        runs(cluster, 0)
        runs(cluster, 2)
        cluster.pod("train", phase="Pending", conditions=[UNSCHEDULABLE]).step()
        expected = "WaitingForNodes: 2 of 4 pods run; Unschedulable: 0/3 nodes are available"
        assert cluster.stage("train")["state"] == "Pending"
        assert cluster.stage("train")["message"] == expected
        assert cluster.condition("Trained")["reason"] == "WaitingForNodes"
        assert cluster.condition("Trained")["message"] == expected
        assert cluster.condition("Succeeded")["message"] == expected
        FineTuneJobStatus.model_validate(cluster.status)

    def test_a_pod_that_was_not_created_is_told_by_the_jobs_warning(self) -> None:
        cluster = training()
        runs(cluster, 0)
        cluster.warnings = {f"uid-{name(cluster.job_of('train'))}": "FailedCreate: exceeded quota"}
        cluster.step()
        assert cluster.stage("train")["message"] == "WaitingForNodes: 1 of 2 pods run; FailedCreate: exceeded quota"

    def test_while_none_runs_there_is_no_count(self) -> None:
        cluster = training()
        waits = {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}
        cluster.pod("train", waits).pod("train", waits).step()
        assert cluster.stage("train")["message"] == "ErrImagePull: no such image"
        assert cluster.condition("Trained")["reason"] == "Pending"

    def test_runs_when_all_pods_do(self) -> None:
        cluster = training()
        for number in (1, 0):
            runs(cluster, number)
        cluster.progress = ProgressReport(stage="train", percent=40)
        cluster.step()
        assert cluster.stage("train")["state"] == "Running"
        assert "message" not in cluster.stage("train")
        assert cluster.condition("Trained")["reason"] == "Running"
        assert cluster.status["progress"]["percent"] == 40

    def test_the_first_pod_is_asked_for_the_progress(self) -> None:
        cluster = training()
        runs(cluster, 1)
        assert running_pod_ip(cluster.world()) is None
        runs(cluster, 0)
        assert running_pod_ip(cluster.world()) == "10.0.0.0"

    def test_in_a_queue_it_waits_for_quota(self) -> None:
        cluster = training(queueName="gpus")
        cluster.step()
        assert cluster.job_of("train")["spec"]["suspend"] is True
        assert cluster.stage("train")["message"] == "waits in queue gpus until Kueue admits it"


class TestTheEnd:
    def test_when_the_first_pod_has_committed_the_others_are_not_missed(self) -> None:
        cluster = training()
        runs(cluster, 0)
        runs(cluster, 1)
        cluster.step()
        cluster.pods[0]["status"]["containerStatuses"][0]["state"] = {"terminated": {"exitCode": 0}}
        cluster.step()
        assert cluster.stage("train")["state"] == "Running"
        assert cluster.condition("Trained")["reason"] == "Running"

    def test_one_pod_that_was_taken_is_one_restart(self) -> None:
        """The others ended because of that, and only because of that."""
        cluster = training(3, training={"effectiveBatchSize": 12})
        ends(cluster, 0, 75, LOST)
        ends(cluster, 1, 75, said("Preempted", "Stopped after step 3 of 9."))
        ends(cluster, 2, 75, LOST)
        cluster.step()
        assert cluster.status["restarts"] == {"preempted": 1, "failed": 0}
        assert cluster.stage("train")["message"].startswith("restarts after Preempted: Stopped after step 3 of 9.")
        assert sum("was preempted" in each for each in cluster.told) == 1

    def test_the_cause_is_told_by_who_knows_it(self) -> None:
        """Whoever ends last: the others only know that they have lost a peer."""
        cluster = training()
        ends(cluster, 1, 78, said("OutOfMemory", "The GPU ran out of memory"))
        ends(cluster, 0, 75, LOST)
        cluster.job_is("train", "Failed", failed=1)
        cluster.step()
        assert cluster.condition("Failed")["reason"] == "OutOfMemory"

    def test_a_lost_peer_is_told_when_nobody_knows_more(self) -> None:
        cluster = training()
        ends(cluster, 0, 75, LOST)
        cluster.step()
        assert cluster.stage("train")["message"].startswith("restarts after PeerLost")

    def test_one_loss_is_counted_once_in_whichever_order_its_pods_end(self) -> None:
        """They need not be of the same second, by which the status tells what it has counted."""
        cluster = training()
        ends(cluster, 0, 75, LOST)
        runs(cluster, 1)
        cluster.pods[-1]["metadata"]["creationTimestamp"] = "2026-01-01T00:00:59Z"
        cluster.step()
        assert cluster.status["restarts"] == {"preempted": 0, "failed": 0}
        cluster.pods.pop()
        ends(cluster, 1, 75, said("Preempted", "Stopped after step 3 of 9."))
        cluster.pods[-1]["metadata"]["creationTimestamp"] = "2026-01-01T00:00:59Z"
        cluster.step()
        assert cluster.status["restarts"] == {"preempted": 1, "failed": 0}
