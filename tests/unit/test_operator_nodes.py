"""Training over several nodes, as the operator asks for it and as the status tells it."""

from typing import Any

import pytest

from support.builders import SETTINGS, fine_tune_job
from support.finetuning import FineTuning
from support.podstatus import termination
from support.reports import DIGESTS
from tuneyard_api.kinds.finetunejob import FineTuneJobSpec
from tuneyard_api.kinds.finetunejob_status import FineTuneJobStatus
from tuneyard_api.names import Stage
from tuneyard_api.runs import revision
from tuneyard_api.stages import STAGES
from tuneyard_operator.finetunejob.children import FAILURE_POLICY, labels, stage_job, stage_services
from tuneyard_operator.finetunejob.observe import running_pod_ip
from tuneyard_operator.machinery.objects import Json, name

TWO: Json = {"resources": {"nodes": 2}}
PEER_LOST = termination("PeerLost", "Another node is gone.")


def built(stage: Stage, **spec: Any) -> Json:
    job = fine_tune_job(**spec)
    return stage_job(job, revision(job), FineTuneJobSpec.model_validate(job["spec"]), stage, DIGESTS, SETTINGS)


def environment(job: Json) -> dict[str, str]:
    (container,) = job["spec"]["template"]["spec"]["containers"]
    return {each["name"]: each["value"] for each in container["env"]}


def training(nodes: int = 2, **spec: Any) -> FineTuning:
    """A FineTuneJob whose training has a Job without pods."""
    return FineTuning(resources={"nodes": nodes}, **spec).prepared()


def runs(cluster: FineTuning, index: int) -> Json:
    """A new pod with that index runs."""
    return cluster.kubelet.start(cluster.job_controller.create_pod(cluster.job_of("train"), index))


def ends(cluster: FineTuning, index: int, code: int, message: str = "") -> Json:
    return cluster.kubelet.exit(runs(cluster, index), code, message)


class TestChildren:
    def test_indexed_job_with_a_pod_per_node(self) -> None:
        spec = built("train", resources={"nodes": 4}, retryPolicy={"backoffLimit": 2})["spec"]
        assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 4, 4)
        assert spec["podReplacementPolicy"] == "Failed"
        assert spec["podFailurePolicy"] == {"rules": FAILURE_POLICY}

    def test_failures_are_counted_per_index(self) -> None:
        spec = built("train", retryPolicy={"backoffLimit": 2}, **TWO)["spec"]
        assert (spec["backoffLimitPerIndex"], spec["maxFailedIndexes"]) == (2, 0)
        assert "backoffLimit" not in spec

    def test_pods_have_the_master_address(self) -> None:
        job = built("train", **TWO)
        assert job["spec"]["template"]["spec"]["subdomain"] == name(job)
        assert environment(job)["MASTER_ADDR"] == f"{name(job)}-0.{name(job)}"
        assert environment(job)["MASTER_PORT"] == "29500"

    def test_longest_name_is_a_host_name(self) -> None:
        job = fine_tune_job(resources={"nodes": 64}, training={"effectiveBatchSize": 64})
        job["metadata"]["name"] = "x" * 44
        made = stage_job(job, revision(job), FineTuneJobSpec.model_validate(job["spec"]), "train", DIGESTS, SETTINGS)
        assert len(f"{name(made)}-63") <= 63

    def test_headless_service(self) -> None:
        job = fine_tune_job(**TWO)
        (service,) = stage_services(job, revision(job), FineTuneJobSpec.model_validate(job["spec"]), "train")
        assert name(service) == name(built("train", **TWO))
        assert service["spec"]["clusterIP"] == "None"
        assert service["spec"]["publishNotReadyAddresses"] is True
        assert service["spec"]["selector"] == labels(job, revision(job), "train")
        assert service["metadata"]["ownerReferences"][0]["uid"] == "uid-x"

    @pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "train"])
    def test_other_stages_have_one_pod(self, stage: Stage) -> None:
        assert built(stage, **TWO)["spec"] | {"template": {}} == built(stage)["spec"] | {"template": {}}
        assert "MASTER_ADDR" not in environment(built(stage, **TWO))

    def test_one_node_is_no_indexed_job(self) -> None:
        job = built("train", resources={"nodes": 1})
        assert job["spec"]["backoffLimit"] == 3
        assert "completionMode" not in job["spec"]
        assert "subdomain" not in job["spec"]["template"]["spec"]
        assert "MASTER_ADDR" not in environment(job)

    def test_priority_of_all_stages(self) -> None:
        for stage in STAGES:
            pod = built(stage, priorityClassName="urgent")["spec"]["template"]["spec"]
            assert pod["priorityClassName"] == "urgent"


class TestWaiting:
    def test_service_is_applied_with_the_job(self) -> None:
        cluster = training()
        assert [name(each) for each in cluster.services] == [name(cluster.job_of("train"))]

    @pytest.mark.lifecycle("service-deleted")
    def test_deleted_service_is_applied_again(self) -> None:
        cluster = training()
        runs(cluster, 0)
        cluster.remove(*cluster.services)
        assert [each["kind"] for each in cluster.step().apply] == ["Service"]
        assert cluster.dry_run().apply == []

    @pytest.mark.lifecycle("nodes-missing")
    def test_running_pods_are_counted(self) -> None:
        cluster = training(4)
        runs(cluster, 0)
        runs(cluster, 2)
        cluster.kubelet.leave_unscheduled(cluster.create_pod("train"), "0/3 nodes are available")
        cluster.step()
        expected = "WaitingForNodes: 2 of 4 pods run; Unschedulable: 0/3 nodes are available"
        assert cluster.stage("train")["state"] == "Pending"
        assert cluster.stage("train")["message"] == expected
        assert cluster.condition("Trained")["reason"] == "WaitingForNodes"
        assert cluster.condition("Trained")["message"] == expected
        assert cluster.condition("Succeeded")["message"] == expected
        FineTuneJobStatus.model_validate(cluster.status)

    def test_missing_pod_has_the_warning_of_the_job(self) -> None:
        cluster = training()
        runs(cluster, 0)
        cluster.warn(cluster.job_of("train"), "FailedCreate", "exceeded quota")
        cluster.wait(10)
        cluster.step()
        assert (
            cluster.stage("train")["message"]
            == "WaitingForNodes: 1 of 2 pods run; FailedCreate: exceeded quota. It is tried again."
        )

    def test_no_count_while_none_runs(self) -> None:
        cluster = training()
        for pod in cluster.job_controller.create_pods(cluster.job_of("train")):
            cluster.kubelet.keep_waiting(pod, "ErrImagePull", "no such image")
        cluster.step()
        assert cluster.stage("train")["message"].startswith("ErrImagePull: no such image. Correct the image")
        assert cluster.condition("Trained")["reason"] == "Pending"

    def test_runs_when_all_pods_do(self) -> None:
        cluster = training()
        runs(cluster, 1)
        first = runs(cluster, 0)
        cluster.progress[first["status"]["podIP"]] = {"stage": "train", "percent": 40}
        cluster.step()
        assert cluster.stage("train")["state"] == "Running"
        assert "message" not in cluster.stage("train")
        assert cluster.condition("Trained")["reason"] == "Running"
        assert cluster.status["progress"]["percent"] == 40

    def test_first_pod_serves_the_progress(self) -> None:
        cluster = training()
        runs(cluster, 1)
        cluster.sync()
        assert running_pod_ip(cluster.observe()) is None
        first = runs(cluster, 0)
        cluster.sync()
        assert running_pod_ip(cluster.observe()) == first["status"]["podIP"]

    def test_waits_for_quota(self) -> None:
        cluster = training(queueName="gpus")
        cluster.step()
        assert cluster.job_of("train")["spec"]["suspend"] is True
        assert cluster.stage("train")["message"].startswith(
            "waits in queue gpus until Kueue admits it: kubectl describe localqueue gpus"
        )


class TestTheEnd:
    def test_others_may_be_gone_after_the_commit(self) -> None:
        cluster = training()
        first = runs(cluster, 0)
        runs(cluster, 1)
        cluster.step()
        cluster.kubelet.exit(first, 0)
        cluster.step()
        assert cluster.stage("train")["state"] == "Running"
        assert cluster.condition("Trained")["reason"] == "Running"

    def test_one_preempted_pod_is_one_restart(self) -> None:
        """The other pods ended only because of that."""
        cluster = training(3, training={"effectiveBatchSize": 12})
        ends(cluster, 0, 75, PEER_LOST)
        ends(cluster, 1, 75, termination("Preempted", "Stopped after step 3 of 9."))
        ends(cluster, 2, 75, PEER_LOST)
        cluster.step()
        assert cluster.status["restarts"] == {"preempted": 1, "failed": 0}
        assert cluster.stage("train")["message"].startswith("restarts after Preempted: Stopped after step 3 of 9.")
        assert sum("was preempted" in event for event in cluster.events) == 1

    def test_cause_is_not_a_lost_peer(self) -> None:
        """Even when another pod ends last: it only knows that it has lost a peer."""
        cluster = training()
        ends(cluster, 1, 78, termination("OutOfMemory", "The GPU ran out of memory"))
        ends(cluster, 0, 75, PEER_LOST)
        cluster.fail_job("train", failed=1)
        cluster.step()
        assert cluster.condition("Failed")["reason"] == "OutOfMemory"

    def test_lost_peer_without_another_cause(self) -> None:
        cluster = training()
        ends(cluster, 0, 75, PEER_LOST)
        cluster.step()
        assert cluster.stage("train")["message"].startswith("restarts after PeerLost")

    def test_one_loss_is_counted_once(self) -> None:
        """Although its pods were created at different times, by which the status knows what it has counted."""
        cluster = training()
        ends(cluster, 0, 75, PEER_LOST)
        second = runs(cluster, 1)
        second["metadata"]["creationTimestamp"] = "2026-01-01T00:00:59Z"
        cluster.step()
        assert cluster.status["restarts"] == {"preempted": 0, "failed": 0}
        cluster.kubelet.exit(second, 75, termination("Preempted", "Stopped after step 3 of 9."))
        cluster.step()
        assert cluster.status["restarts"] == {"preempted": 1, "failed": 0}
