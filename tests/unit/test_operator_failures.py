"""Why a stage failed, also when the pod that knew it is gone."""

from typing import Any

import pytest

from support.operatorbuilders import DATASET, DIGESTS, PUBLISHED, Cluster, said
from tuneyard_api.kinds.finetunejob_status import FineTuneJobStatus
from tuneyard_api.names import EXIT_BAD_INPUT, EXIT_DOES_NOT_FIT, EXIT_TRY_AGAIN, EXIT_UNKNOWN, STAGES, Stage
from tuneyard_operator.machinery.objects import Json, name, uid

GATE: Json = {
    "metric": "perplexity",
    "against": "base",
    "subject": "tuned",
    "value": 9.0,
    "limit": 7.0,
    "passed": False,
}


def at(stage: Stage) -> Cluster:
    """A job whose stage has its Job, and no pod yet."""
    cluster = Cluster()
    if stage == "prepare":
        cluster.step()
        return cluster
    cluster.prepared()
    for before in STAGES[1 : STAGES.index(stage)]:
        cluster.completed(before, PUBLISHED if before == "publish" else None)
        cluster.step()
    return cluster


def failed(cluster: Cluster, stage: Stage, reason: str = "BackoffLimitExceeded", message: str = "") -> Cluster:
    """The Job's controller says so, as Kubernetes 1.34 does."""
    cluster.job_is(stage, "Failed", failed=1)
    words = message or "Job has reached the specified backoff limit"
    cluster.job_of(stage)["status"]["conditions"][0] |= {"reason": reason, "message": words}
    return cluster


def refused_input(cluster: Cluster, stage: Stage, pod: str, code: int = EXIT_BAD_INPUT) -> Cluster:
    words = f"Container stage for pod team/{pod} failed with exit code {code} matching FailJob rule at index 0"
    return failed(cluster, stage, "PodFailurePolicy", words)


class TestAPodThatIsGone:
    """Its last words were seen: the Job's controller keeps it for a second and more."""

    @pytest.mark.parametrize("stage", STAGES)
    def test_is_remembered(self, stage: Stage) -> None:
        cluster = at(stage).running(stage)
        cluster.exited(stage, EXIT_BAD_INPUT, said("AccessDenied", "No right to write", "Ask for it")).step()
        pod = cluster.pods.pop()
        refused_input(cluster, stage, name(pod)).step()
        assert cluster.condition("Failed")["reason"] == "AccessDenied"
        assert cluster.condition("Failed")["message"] == "No right to write. Ask for it."
        assert cluster.stage(stage)["lastFailure"]["pod"] == name(pod)
        FineTuneJobStatus.model_validate(cluster.status)

    @pytest.mark.parametrize(("kind", "code"), [("Failed", EXIT_BAD_INPUT), ("Complete", 0)])
    def test_is_waited_for_where_the_job_is_heard_first(self, kind: str, code: int) -> None:
        """They are watched separately, and one of the watches may lag behind."""
        cluster = at("prepare").running("prepare").job_is("prepare", kind)
        assert cluster.step().delete == []
        assert cluster.stage("prepare")["state"] == "Running"
        result = {"digests": DIGESTS, "done": [], "dataset": DATASET}
        cluster.exited("prepare", code, said("InvalidJSON", result=None if code else result)).step()
        assert cluster.stage("prepare")["state"] == ("Failed" if code else "Succeeded")

    def test_leaves_what_its_gates_measured(self) -> None:
        cluster = at("evaluate").running("evaluate")
        measured = {"perplexity": {"base": 10.0, "tuned": 9.0}, "gates": [GATE], "passed": False}
        cluster.exited("evaluate", EXIT_BAD_INPUT, said("GateFailed", "9.0 > 7.0", result=measured)).step()
        refused_input(cluster, "evaluate", name(cluster.pods.pop())).step()
        assert cluster.condition("Failed")["reason"] == "GateFailed"
        assert cluster.status["evaluation"]["gates"] == [GATE]

    def test_is_remembered_although_an_older_one_is_still_there(self) -> None:
        cluster = at("train").running("train").exited("train", EXIT_UNKNOWN, said("StageCrashed", "first"))
        cluster.step()
        cluster.running("train").exited("train", EXIT_UNKNOWN, said("OutOfMemory", "second")).step()
        cluster.pods.pop()
        failed(cluster, "train").step()
        assert cluster.condition("Failed")["reason"] == "OutOfMemory"

    def test_is_why_the_next_one_is_waited_for(self) -> None:
        cluster = at("train").running("train").exited("train", EXIT_TRY_AGAIN, said("Preempted", "SIGTERM at step 5"))
        cluster.step()
        cluster.pods.pop()
        cluster.step()
        assert cluster.stage("train")["message"].startswith("starts again after Preempted: SIGTERM at step 5.")


class TestAPodThatNobodySaw:
    def test_of_training_is_said_to_be_lost_with_what_is_known(self) -> None:
        cluster = refused_input(at("train"), "train", "x-train-kq7z2", EXIT_DOES_NOT_FIT)
        cluster.step()
        found = cluster.condition("Failed")
        assert found["reason"] == "ReasonLost"
        for words in (
            "failed with exit code 78",
            "it does not fit",
            "kubectl get events -n team --field-selector involvedObject.name=x-train-kq7z2",
            "apply it again",
        ):
            assert words in found["message"], found

    def test_is_not_confused_with_an_earlier_one(self) -> None:
        cluster = at("train").running("train").exited("train", EXIT_TRY_AGAIN, said("Preempted", "SIGTERM at step 5"))
        cluster.step()
        refused_input(cluster, "train", "x-train-another").step()
        assert cluster.condition("Failed")["reason"] == "ReasonLost"

    def test_of_a_job_that_gave_up_names_the_job(self) -> None:
        cluster = failed(at("train"), "train")
        cluster.step()
        found = cluster.condition("Failed")
        assert found["reason"] == "ReasonLost"
        assert name(cluster.job_of("train")) in found["message"]
        assert "kubectl get events -n team and" in found["message"]

    @pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "train"])
    def test_of_a_stage_without_a_gpu_says_it_again(self, stage: Stage) -> None:
        cluster = refused_input(at(stage), stage, "x-gone")
        step = cluster.step()
        assert [each["metadata"]["labels"]["tuneyard.dev/stage"] for each in step.delete] == [stage]
        assert not cluster.condition("Failed")
        assert "runs again" in cluster.stage(stage)["message"]
        cluster.step()
        cluster.running(stage).exited(stage, EXIT_BAD_INPUT, said("InvalidJSON", "line 3 is not JSON"))
        refused_input(cluster, stage, name(cluster.pods[-1])).step()
        assert cluster.condition("Failed")["reason"] == "InvalidJSON"

    def test_is_not_asked_where_the_job_itself_knows(self) -> None:
        cluster = failed(at("train"), "train", "DeadlineExceeded", "Job was active longer than specified deadline")
        cluster.step()
        assert cluster.condition("Failed")["reason"] == "StageCrashed"
        assert "DeadlineExceeded: Job was active longer" in cluster.condition("Failed")["message"]


class TestAPodWhoseContainerSaidNothing:
    @pytest.mark.parametrize("container", [None, {"terminated": {"exitCode": 137, "message": ""}}])
    def test_says_what_its_node_said(self, container: Json | None) -> None:
        cluster = at("train").pod(
            "train", container, phase="Failed", reason="Evicted", message="ephemeral local storage usage exceeds 1Gi."
        )
        failed(cluster, "train").step()
        found = cluster.condition("Failed")
        assert found["reason"] == "StageCrashed"
        assert "Evicted: ephemeral local storage usage exceeds 1Gi." in found["message"]
        assert "kubectl describe pod -n team" in found["message"]

    @pytest.mark.parametrize("status", [{}, {"container": {"terminated": {"exitCode": 137, "message": ""}}}])
    def test_says_who_took_it_away(self, status: dict[str, Any]) -> None:
        why = {"type": "DisruptionTarget", "status": "True", "message": "PodGC: node no longer exists"}
        cluster = at("train").pod("train", phase="Failed", conditions=[why], **status)
        cluster.step()
        assert "after Preempted: Pod" in cluster.stage("train")["message"]
        assert "PodGC: node no longer exists" in cluster.stage("train")["message"]


def preempted(cluster: Cluster) -> Cluster:
    """A pod of training runs, is taken away and is gone, as after a drain."""
    cluster.running("train").step()
    cluster.exited("train", EXIT_TRY_AGAIN, said("Preempted", "SIGTERM")).step()
    cluster.pods.pop()
    cluster.step()
    return cluster


def crashed(cluster: Cluster, times: int) -> Cluster:
    """The Job's controller has charged so many of this Job's pods; crashed pods stay."""
    cluster.running("train").step()
    cluster.exited("train", EXIT_UNKNOWN, said("StageCrashed", "KeyError: 'x'")).step()
    cluster.job_of("train").setdefault("status", {})["failed"] = times
    cluster.step()
    return cluster


def suspended_and_resumed(cluster: Cluster) -> Cluster:
    cluster.changed(suspend=True).step()
    cluster.step()
    assert [name(job) for job in cluster.jobs if "-train-" in name(job)] == []
    cluster.changed(suspend=False).step()
    return cluster


class TestRestarts:
    def test_count_every_pod_that_was_taken_away(self) -> None:
        cluster = preempted(preempted(preempted(at("train"))))
        assert cluster.status["restarts"] == {"preempted": 3, "failed": 0}
        assert cluster.stage("train")["restarts"] == 3

    def test_count_a_pod_that_stays_once(self) -> None:
        cluster = at("train").running("train").exited("train", EXIT_TRY_AGAIN, said("Preempted", "SIGTERM"))
        for _ in range(3):
            cluster.step()
        preempted(cluster)
        assert cluster.status["restarts"] == {"preempted": 2, "failed": 0}

    def test_count_a_crash_as_nothing_else_although_its_job_has_not_counted_it(self) -> None:
        cluster = at("train").running("train").exited("train", EXIT_UNKNOWN, said("StageCrashed"))
        cluster.step()
        assert cluster.status["restarts"]["preempted"] == 0
        assert cluster.stage("train")["restarts"] == 1

    def test_go_on_after_a_resume(self) -> None:
        cluster = crashed(preempted(at("train")), 1)
        suspended_and_resumed(cluster)
        assert cluster.status["restarts"] == {"preempted": 1, "failed": 1}, "the suspension is nobody's failure"
        crashed(preempted(cluster), 1)
        assert cluster.status["restarts"] == {"preempted": 2, "failed": 2}
        assert cluster.stage("train")["restarts"] == 4

    def test_of_the_stages_are_added_up(self) -> None:
        cluster = crashed(preempted(at("train")), 1)
        cluster.running("train").exited("train", 0, said("Completed"))
        cluster.job_is("train", "Complete", succeeded=1, failed=1).step()
        cluster.running("export").exited("export", EXIT_UNKNOWN, said("StageCrashed")).step()
        cluster.job_of("export")["status"] = {"failed": 1}
        cluster.step()
        assert cluster.status["restarts"] == {"preempted": 1, "failed": 2}

    def test_count_a_crash_of_which_is_heard_when_its_stage_has_succeeded(self) -> None:
        cluster = at("export").completed("export")
        cluster.job_of("export")["status"]["failed"] = 1
        cluster.step()
        cluster.job_of("evaluate")["status"] = {"failed": 1}
        cluster.step()
        assert cluster.status["restarts"] == {"preempted": 0, "failed": 2}

    def test_of_a_job_that_gave_up_are_those_that_it_was_charged(self) -> None:
        cluster = failed(at("train"), "train")
        cluster.job_of("train")["status"]["failed"] = 4
        cluster.step()
        assert cluster.status["restarts"] == {"preempted": 0, "failed": 4}
        assert cluster.stage("train")["restarts"] == 4


def storage_away(cluster: Cluster) -> Cluster:
    cluster.running("train").exited("train", EXIT_TRY_AGAIN, said("StorageUnavailable", "No answer")).step()
    cluster.pods.pop()
    cluster.step()
    return cluster


class TestPatience:
    """The Job's controller waits 10, 20, 40, 80 ... 600 s after each pod that has ended, whoever is to blame."""

    def test_what_is_waited_for_is_said(self) -> None:
        cluster = preempted(at("train"))
        assert cluster.stage("train")["message"].endswith("The next pod comes within 10s.")
        cluster = preempted(preempted(cluster))
        assert cluster.stage("train")["message"].endswith("The next pod comes within 40s.")
        cluster.pod("train", phase="Pending").step()
        assert "within" not in cluster.stage("train")["message"], "it has come"

    def test_a_job_that_lost_four_pods_is_made_again(self) -> None:
        cluster = preempted(preempted(preempted(at("train"))))
        before = cluster.job_of("train")
        cluster.running("train").exited("train", EXIT_TRY_AGAIN, said("Preempted", "SIGTERM"))
        step = cluster.step()
        assert step.delete == [before]
        assert "would wait 1m20s" in cluster.stage("train")["message"]
        assert cluster.stage("train")["restarts"] == 4
        assert cluster.step().create, "and it counts from zero"
        preempted(cluster)
        assert cluster.stage("train")["message"].endswith("The next pod comes within 10s.")
        assert cluster.status["restarts"] == {"preempted": 5, "failed": 0}

    def test_a_pod_that_has_come_all_the_same_is_left_alone(self) -> None:
        cluster = preempted(preempted(preempted(at("train"))))
        cluster.running("train").exited("train", EXIT_TRY_AGAIN, said("Preempted", "SIGTERM"))
        assert cluster.pod("train", phase="Pending").step().delete == []

    def test_a_place_in_a_queue_is_kept(self) -> None:
        cluster = Cluster(queueName="gpus").prepared()
        cluster.job_of("train")["spec"]["suspend"] = False
        for _ in range(4):
            cluster.running("train").exited("train", EXIT_TRY_AGAIN, said("Preempted", "SIGTERM")).step()
            assert cluster.step().delete == []
            cluster.pods.pop()
        assert cluster.stage("train")["message"].endswith("The next pod comes within 1m20s.")

    def test_a_job_of_which_a_pod_crashed_waits(self) -> None:
        """Its retries would be counted anew, and the log of what crashed would go."""
        cluster = crashed(preempted(preempted(preempted(at("train")))), 1)
        assert cluster.stage("train")["message"].endswith("The next pod comes within 1m20s.")
        cluster.running("train").exited("train", EXIT_TRY_AGAIN, said("Preempted", "SIGTERM"))
        assert cluster.step().delete == []

    def test_a_store_that_is_away_is_given_its_time(self) -> None:
        cluster = storage_away(storage_away(storage_away(at("train"))))
        assert storage_away(cluster).stage("train")["message"].endswith("The next pod comes within 1m20s.")

    def test_never_lasts_longer_than_ten_minutes(self) -> None:
        cluster = at("train")
        for _ in range(9):
            storage_away(cluster)
        assert cluster.stage("train")["message"].endswith("The next pod comes within 10m00s.")


class TestAJobThatNobodyStarts:
    """Its controller expects a pod that has come and gone unseen: no event will come, and no pod."""

    def test_a_job_that_nobody_starts_is_made_again(self) -> None:
        cluster = forgotten(450.0)
        before = cluster.job_of("train")
        step = cluster.step()
        assert step.delete == [before]
        assert (
            "has no pod, and nothing was heard of it for 7m30s: it is made again" in cluster.stage("train")["message"]
        )
        assert cluster.stage("train")["state"] == "Pending"
        assert cluster.step().create

    def test_is_looked_at_again(self) -> None:
        cluster = preempted(at("train"))
        cluster.exited("train", EXIT_TRY_AGAIN, said("Preempted", "SIGTERM"))
        assert cluster.step().requeue_after == 10.0, "a pod that has ended wakes nobody"

    def test_is_given_what_its_controller_waits_anyhow(self) -> None:
        assert forgotten(410.0).step().delete == []
        cluster = storage_away(storage_away(storage_away(forgotten(0.0))))
        cluster.silence = 450.0
        assert cluster.step().delete == [], "after three pods it waits 40 s"
        cluster.silence = 470.0
        assert cluster.step().delete

    def test_is_made_again_too_where_an_old_warning_says_why(self) -> None:
        """It stays for an hour, also where the controller has stopped trying; a new one is news."""
        cluster = forgotten(450.0)
        cluster.warnings = {uid(cluster.job_of("train")): "FailedCreate: connection refused"}
        assert cluster.step().delete

    def test_is_left_alone_while_it_is_suspended(self) -> None:
        cluster = forgotten(9000.0)
        cluster.job_of("train")["spec"]["suspend"] = True
        assert cluster.step().delete == []

    def test_is_left_alone_while_a_pod_is_on_its_way(self) -> None:
        assert forgotten(9000.0).pod("train", phase="Pending").step().delete == []

    def test_is_left_alone_while_no_controller_has_seen_it(self) -> None:
        cluster = forgotten(9000.0)
        cluster.job_of("train")["status"] = {}
        assert cluster.step().delete == [], "another one would fare no better"


def test_a_job_that_somebody_deleted_is_not_said_to_run_when_it_is_made_again() -> None:
    cluster = at("train").running("train")
    cluster.step()
    assert cluster.stage("train")["state"] == "Running"
    cluster.gone(cluster.job_of("train"))
    assert cluster.step().create
    assert cluster.stage("train")["state"] == "Pending"
    assert "startedAt" not in cluster.stage("train")


def forgotten(seconds: float) -> Cluster:
    """A training without a pod of which nothing was heard for so long."""
    cluster = at("train")
    cluster.job_of("train")["status"] = {"startTime": "2030-01-02T03:04:00Z"}
    cluster.step()
    cluster.silence = seconds
    return cluster
