"""Why a stage failed, even when the pod with the reason has been deleted."""

import pytest

from support.finetuning import FineTuning
from support.podstatus import termination
from support.reports import CHAIN, PREPARED, evaluated, measurements
from tuneyard_api.kinds.finetunejob_status import FineTuneJobStatus
from tuneyard_api.names import EXIT_BAD_INPUT, EXIT_DOES_NOT_FIT, EXIT_TRY_AGAIN, EXIT_UNKNOWN, Stage
from tuneyard_operator.machinery.objects import Json, name, uid

GATE: Json = {
    "metric": "perplexity",
    "against": "base",
    "subject": "tuned",
    "value": 9.0,
    "limit": 7.0,
    "passed": False,
}


def at(stage: Stage) -> FineTuning:
    return FineTuning().at(stage)


def rejected_input(cluster: FineTuning, stage: Stage, pod: str, code: int = EXIT_BAD_INPUT) -> FineTuning:
    """The Job controller has observed that the pod exited with the code."""
    cluster.job_controller.fail_by_policy(cluster.job_of(stage), pod, code, failed=1)
    return cluster


class TestDeletedPod:
    """Its termination message was observed: the Job controller keeps a failed pod for at least a second."""

    @pytest.mark.parametrize("stage", CHAIN)
    def test_is_remembered(self, stage: Stage) -> None:
        cluster = at(stage).run(stage)
        cluster.exit(stage, EXIT_BAD_INPUT, termination("AccessDenied", "No right to write", "Ask for it")).step()
        pod = cluster.remove_pod()
        rejected_input(cluster, stage, name(pod)).step()
        assert cluster.condition("Failed")["reason"] == "AccessDenied"
        assert cluster.condition("Failed")["message"] == (
            "No right to write. Ask for it. Then: kubectl tuneyard retry x -n team"
        )
        assert cluster.stage(stage)["lastFailure"]["pod"] == name(pod)
        FineTuneJobStatus.model_validate(cluster.status)

    @pytest.mark.parametrize("code", [EXIT_BAD_INPUT, 0])
    def test_is_awaited_when_the_job_is_observed_first(self, code: int) -> None:
        """Jobs and pods are watched separately, and one of the watches may lag."""
        cluster = at("prepare").run("prepare")
        cluster.fail_job("prepare") if code else cluster.complete_job("prepare")
        assert cluster.step().delete == []
        assert cluster.stage("prepare")["state"] == "Running"
        cluster.exit("prepare", code, termination("InvalidJSON", result=None if code else PREPARED)).step()
        assert cluster.stage("prepare")["state"] == ("Failed" if code else "Succeeded")

    def test_its_gates_stay_in_the_status(self) -> None:
        cluster = at("evaluate").run("evaluate")
        measured = evaluated(measurements(base=10.0, tuned=9.0), [GATE])
        cluster.exit("evaluate", EXIT_BAD_INPUT, termination("GateFailed", "9.0 > 7.0", result=measured)).step()
        rejected_input(cluster, "evaluate", name(cluster.remove_pod())).step()
        assert cluster.condition("Failed")["reason"] == "GateFailed"
        assert cluster.status["evaluation"]["gates"] == [GATE]

    def test_latest_is_remembered(self) -> None:
        cluster = at("train").run("train").exit("train", EXIT_UNKNOWN, termination("StageCrashed", "first"))
        cluster.step()
        cluster.run("train").exit("train", EXIT_UNKNOWN, termination("GPUNotVisible", "second")).step()
        cluster.remove_pod()
        cluster.fail_job("train").step()
        assert cluster.condition("Failed")["reason"] == "GPUNotVisible"

    def test_is_the_reason_of_the_wait(self) -> None:
        cluster = at("train").run("train").exit("train", EXIT_TRY_AGAIN, termination("Preempted", "SIGTERM at step 5"))
        cluster.step()
        cluster.remove_pod()
        cluster.step()
        assert cluster.stage("train")["message"].startswith("restarts after Preempted: SIGTERM at step 5.")


class TestUnobservedPod:
    def test_of_training_has_its_exit_code(self) -> None:
        cluster = rejected_input(at("train"), "train", "x-train-kq7z2", EXIT_DOES_NOT_FIT)
        cluster.step()
        found = cluster.condition("Failed")
        assert found["reason"] == "ReasonLost"
        for words in (
            "failed with exit code 78",
            "it does not fit",
            "kubectl get events -n team --field-selector involvedObject.name=x-train-kq7z2",
            "kubectl tuneyard retry x -n team",
        ):
            assert words in found["message"], found

    def test_is_not_an_earlier_one(self) -> None:
        cluster = at("train").run("train").exit("train", EXIT_TRY_AGAIN, termination("Preempted", "SIGTERM at step 5"))
        cluster.step()
        rejected_input(cluster, "train", "x-train-another").step()
        assert cluster.condition("Failed")["reason"] == "ReasonLost"

    def test_of_a_failed_job_has_the_job(self) -> None:
        cluster = at("train").fail_job("train")
        cluster.step()
        found = cluster.condition("Failed")
        assert found["reason"] == "ReasonLost"
        assert name(cluster.job_of("train")) in found["message"]
        assert "kubectl get events -n team and" in found["message"]

    @pytest.mark.parametrize("stage", [stage for stage in CHAIN if stage != "train"])
    @pytest.mark.lifecycle("reason-lost-on-cpu")
    def test_of_a_cpu_stage_restarts_the_stage(self, stage: Stage) -> None:
        cluster = rejected_input(at(stage), stage, "x-gone")
        step = cluster.step()
        assert [each["metadata"]["labels"]["tuneyard.dev/stage"] for each in step.delete] == [stage]
        assert not cluster.condition("Failed")
        assert cluster.stage(stage)["message"].startswith("Recreating the Job: the reason of its failure is lost")
        cluster.step()
        cluster.run(stage).exit(stage, EXIT_BAD_INPUT, termination("InvalidJSON", "line 3 is not JSON"))
        rejected_input(cluster, stage, name(cluster.pods[-1])).step()
        assert cluster.condition("Failed")["reason"] == "InvalidJSON"

    def test_does_not_matter_where_the_job_has_the_reason(self) -> None:
        cluster = at("train").fail_job("train", "DeadlineExceeded", "Job was active longer than specified deadline")
        cluster.step()
        assert cluster.condition("Failed")["reason"] == "StageCrashed"
        assert "DeadlineExceeded: Job was active longer" in cluster.condition("Failed")["message"]


class TestContainerWithoutMessage:
    @pytest.mark.parametrize("has_run", [False, True])
    def test_message_of_the_node_is_reported(self, has_run: bool) -> None:
        cluster = at("train")
        pod = cluster.create_pod("train")
        if has_run:
            cluster.kubelet.exit(pod, 137)
        cluster.kubelet.fail(pod, "Evicted", "ephemeral local storage usage exceeds 1Gi.")
        cluster.fail_job("train").step()
        found = cluster.condition("Failed")
        assert found["reason"] == "DiskFull"
        assert "Evicted: ephemeral local storage usage exceeds 1Gi." in found["message"]
        assert "spec.resources.limits.ephemeral-storage" in found["message"]

    @pytest.mark.parametrize("has_run", [False, True])
    def test_preemption_is_reported(self, has_run: bool) -> None:
        cluster = at("train")
        pod = cluster.kubelet.disrupt(cluster.create_pod("train"), "PodGC: node no longer exists")
        cluster.kubelet.exit(pod, 137) if has_run else cluster.kubelet.fail(pod)
        cluster.step()
        assert "after Preempted: Pod" in cluster.stage("train")["message"]
        assert "PodGC: node no longer exists" in cluster.stage("train")["message"]


def preempted(cluster: FineTuning) -> FineTuning:
    """A pod of training runs, is preempted and deleted, as by a drain."""
    cluster.run("train").step()
    cluster.exit("train", EXIT_TRY_AGAIN, termination("Preempted", "SIGTERM")).step()
    cluster.remove_pod()
    cluster.step()
    return cluster


def crashed(cluster: FineTuning, times: int) -> FineTuning:
    """The Job controller has counted so many failed pods of this Job; crashed pods remain."""
    cluster.run("train").step()
    cluster.exit("train", EXIT_UNKNOWN, termination("StageCrashed", "KeyError: 'x'")).step()
    cluster.job_of("train").setdefault("status", {})["failed"] = times
    cluster.step()
    return cluster


def suspended_and_resumed(cluster: FineTuning) -> FineTuning:
    cluster.change(suspend=True).step()
    cluster.step()
    assert [name(job) for job in cluster.jobs if "-train-" in name(job)] == []
    cluster.change(suspend=False).step()
    return cluster


class TestRestarts:
    def test_count_every_preempted_pod(self) -> None:
        cluster = preempted(preempted(preempted(at("train"))))
        assert cluster.status["restarts"] == {"preempted": 3, "failed": 0}
        assert cluster.stage("train")["restarts"] == 3

    def test_count_a_remaining_pod_once(self) -> None:
        cluster = at("train").run("train").exit("train", EXIT_TRY_AGAIN, termination("Preempted", "SIGTERM"))
        for _ in range(3):
            cluster.step()
        preempted(cluster)
        assert cluster.status["restarts"] == {"preempted": 2, "failed": 0}

    def test_do_not_count_a_crash_as_a_preemption(self) -> None:
        cluster = at("train").run("train").exit("train", EXIT_UNKNOWN, termination("StageCrashed"))
        cluster.step()
        assert cluster.status["restarts"]["preempted"] == 0
        assert cluster.stage("train")["restarts"] == 1

    def test_continue_after_a_resume(self) -> None:
        cluster = crashed(preempted(at("train")), 1)
        suspended_and_resumed(cluster)
        assert cluster.status["restarts"] == {"preempted": 1, "failed": 1}, "the suspension is nobody's failure"
        crashed(preempted(cluster), 1)
        assert cluster.status["restarts"] == {"preempted": 2, "failed": 2}
        assert cluster.stage("train")["restarts"] == 4

    def test_are_the_sum_of_the_stages(self) -> None:
        cluster = crashed(preempted(at("train")), 1)
        cluster.run("train").exit("train", 0, termination("Completed"))
        cluster.job_controller.complete(cluster.job_of("train"), succeeded=1, failed=1)
        cluster.step()
        cluster.run("export").exit("export", EXIT_UNKNOWN, termination("StageCrashed")).step()
        cluster.job_controller.sync(cluster.job_of("export"))
        cluster.step()
        assert cluster.status["restarts"] == {"preempted": 1, "failed": 2}

    def test_count_a_crash_that_is_observed_late(self) -> None:
        cluster = at("export").complete("export")
        cluster.job_of("export")["status"]["failed"] = 1
        cluster.step()
        cluster.job_of("evaluate")["status"] = {"failed": 1}
        cluster.step()
        assert cluster.status["restarts"] == {"preempted": 0, "failed": 2}

    def test_of_a_failed_job_are_its_charged_pods(self) -> None:
        cluster = at("train").fail_job("train")
        cluster.job_of("train")["status"]["failed"] = 4
        cluster.step()
        assert cluster.status["restarts"] == {"preempted": 0, "failed": 4}
        assert cluster.stage("train")["restarts"] == 4


def storage_away(cluster: FineTuning) -> FineTuning:
    cluster.run("train").exit("train", EXIT_TRY_AGAIN, termination("StorageUnavailable", "No answer")).step()
    cluster.remove_pod()
    cluster.step()
    return cluster


class TestBackoff:
    """The Job controller waits 10, 20, 40, 80 ... 600 s after each failed pod, whatever the reason."""

    def test_delay_is_reported(self) -> None:
        cluster = preempted(at("train"))
        assert cluster.stage("train")["message"].endswith("The next pod starts within 10s.")
        cluster = preempted(preempted(cluster))
        assert cluster.stage("train")["message"].endswith("The next pod starts within 40s.")
        cluster.create_pod("train")
        cluster.step()
        assert "within" not in cluster.stage("train")["message"], "it has come"

    def test_job_with_four_preempted_pods_is_recreated(self) -> None:
        cluster = preempted(preempted(preempted(at("train"))))
        before = cluster.job_of("train")
        cluster.run("train").exit("train", EXIT_TRY_AGAIN, termination("Preempted", "SIGTERM"))
        step = cluster.step()
        assert list(map(uid, step.delete)) == [uid(before)]
        message = "Recreating the Job: it was preempted and would otherwise wait 1m20s"
        assert cluster.stage("train")["message"] == message
        assert cluster.stage("train")["restarts"] == 4
        assert cluster.step().create, "and it counts from zero"
        preempted(cluster)
        assert cluster.stage("train")["message"].endswith("The next pod starts within 10s.")
        assert cluster.status["restarts"] == {"preempted": 5, "failed": 0}

    def test_job_with_a_new_pod_is_kept(self) -> None:
        cluster = preempted(preempted(preempted(at("train"))))
        cluster.run("train").exit("train", EXIT_TRY_AGAIN, termination("Preempted", "SIGTERM"))
        cluster.create_pod("train")
        assert cluster.step().delete == []

    def test_queued_job_is_kept(self) -> None:
        cluster = FineTuning(queueName="gpus").prepared()
        cluster.job_of("train")["spec"]["suspend"] = False
        for _ in range(4):
            cluster.run("train").exit("train", EXIT_TRY_AGAIN, termination("Preempted", "SIGTERM")).step()
            assert cluster.step().delete == []
            cluster.remove_pod()
        assert cluster.stage("train")["message"].endswith("The next pod starts within 1m20s.")

    def test_job_with_a_crashed_pod_is_kept(self) -> None:
        """A new Job would count its retries from zero, and the log of the crash would be deleted."""
        cluster = crashed(preempted(preempted(preempted(at("train")))), 1)
        assert cluster.stage("train")["message"].endswith("The next pod starts within 1m20s.")
        cluster.run("train").exit("train", EXIT_TRY_AGAIN, termination("Preempted", "SIGTERM"))
        assert cluster.step().delete == []

    def test_job_that_waits_for_the_store_is_kept(self) -> None:
        cluster = storage_away(storage_away(storage_away(at("train"))))
        assert storage_away(cluster).stage("train")["message"].endswith("The next pod starts within 1m20s.")

    def test_is_limited_to_ten_minutes(self) -> None:
        cluster = at("train")
        for _ in range(9):
            storage_away(cluster)
        assert cluster.stage("train")["message"].endswith("The next pod starts within 10m00s.")


class TestStalledJob:
    """Its controller expects a pod that was deleted unobserved: there will be neither an event nor a pod."""

    @pytest.mark.lifecycle("stalled")
    def test_stalled_job_is_recreated(self) -> None:
        cluster = forgotten(450.0)
        before = cluster.job_of("train")
        step = cluster.step()
        assert list(map(uid, step.delete)) == [uid(before)]
        message = "Recreating the Job: it has no pod, and there was no event for 7m30s"
        assert cluster.stage("train")["message"] == message
        assert cluster.stage("train")["state"] == "Pending"
        assert cluster.step().create

    def test_is_requeued(self) -> None:
        cluster = preempted(at("train"))
        cluster.exit("train", EXIT_TRY_AGAIN, termination("Preempted", "SIGTERM"))
        assert cluster.step().requeue_after == 10.0, "a pod that has ended wakes nobody"

    def test_is_recreated_only_after_its_own_backoff(self) -> None:
        assert forgotten(410.0).step().delete == []
        cluster = storage_away(storage_away(storage_away(forgotten(0.0))))
        cluster.wait_idle(450)
        assert cluster.step().delete == [], "after three pods it waits 40 s"
        cluster.wait_idle(470)
        assert cluster.step().delete

    def test_is_recreated_despite_an_old_warning(self) -> None:
        """A warning is kept for an hour, even where the controller has stopped retrying; a new one is an event."""
        cluster = forgotten(0.0)
        cluster.warn(cluster.job_of("train"), "FailedCreate", "connection refused")
        cluster.wait(10)
        cluster.step()
        assert "connection refused" in cluster.stage("train")["message"]
        cluster.wait_idle(450)
        assert cluster.step().delete

    def test_is_kept_while_it_is_suspended(self) -> None:
        cluster = forgotten(0.0)
        cluster.job_of("train")["spec"]["suspend"] = True
        cluster.step()
        cluster.wait(9000)
        assert cluster.step().delete == []

    def test_is_kept_while_a_pod_is_pending(self) -> None:
        cluster = forgotten(0.0)
        cluster.create_pod("train")
        cluster.step()
        cluster.wait(9000)
        assert cluster.step().delete == []

    def test_is_kept_while_unobserved(self) -> None:
        cluster = at("train")
        cluster.wait(9000)
        assert cluster.step().delete == [], "another Job would get no pod either"


@pytest.mark.lifecycle("job-deleted")
def test_deleted_job_is_pending() -> None:
    cluster = at("train").run("train")
    cluster.step()
    assert cluster.stage("train")["state"] == "Running"
    cluster.garbage_collector.finish(cluster.job_of("train"))
    assert cluster.step().create
    assert cluster.stage("train")["state"] == "Pending"
    assert "startedAt" not in cluster.stage("train")


def forgotten(seconds: float) -> FineTuning:
    """A training without a pod, and without an event for so many seconds."""
    cluster = at("train")
    cluster.job_controller.stall(cluster.job_of("train"))
    cluster.step()
    cluster.wait_idle(seconds)
    return cluster
