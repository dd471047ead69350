"""How a FineTuneJob fails, and what is not a failure."""

import pytest

from support.operatorbuilders import Cluster, evaluated, finish, measurements, stages_with_jobs, termination
from tuneyard_operator.machinery.objects import Json
from tuneyard_operator.machinery.plan import Rejection


class TestFailure:
    def test_bad_input_has_reason_message_and_advice(self) -> None:
        cluster = Cluster()
        cluster.step()
        message = termination("BucketNotFound", "There is no bucket nowhere", "Create it, or change dataset.train")
        cluster.running("prepare").exited("prepare", 65, message).job_is("prepare", "Failed", failed=1)
        cluster.step()
        failed = cluster.condition("Failed")
        assert failed["status"] == "True"
        assert failed["reason"] == "BucketNotFound"
        assert failed["message"] == "There is no bucket nowhere. Create it, or change dataset.train."
        assert cluster.condition("DatasetReady")["reason"] == "BucketNotFound"
        assert cluster.condition("Succeeded")["status"] == "False"
        assert cluster.status["phase"] == "Failed"
        assert stages_with_jobs(cluster) == ["prepare"], "no GPU was asked for"
        assert any(event.startswith("BucketNotFound: ") for event in cluster.emitted)

    def test_final_exit_code_is_not_a_retry(self) -> None:
        cluster = Cluster()
        cluster.step()
        cluster.running("prepare").exited("prepare", 65, termination("InvalidJSON", "line 3"))
        cluster.step()
        assert cluster.stage("prepare")["state"] == "Running"
        assert not any("again" in event for event in cluster.emitted)

    @pytest.mark.parametrize(
        ("message", "reason", "expected", "says"),
        [
            ("", "Error", "StageCrashed", "exited with 1"),
            ("Traceback\nKeyError: 'x'\n", "Error", "StageCrashed", "KeyError: 'x'"),
            ('{"reason": 1', "Error", "StageCrashed", "exited with 1"),
            ("", "OOMKilled", "OutOfMemory", "resources.limits.memory"),
        ],
    )
    def test_crash_without_a_reason(self, message: str, reason: str, expected: str, says: str) -> None:
        cluster = Cluster().prepared()
        cluster.running("train").exited("train", 1, message, reason).job_is("train", "Failed", failed=4)
        cluster.step()
        assert cluster.condition("Failed")["reason"] == expected
        assert says in cluster.condition("Failed")["message"]
        assert cluster.status["restarts"] == {"preempted": 0, "failed": 4}

    def test_failed_gate_shows_the_measurements(self) -> None:
        gate = {"metric": "perplexity", "against": "base", "subject": "tuned", "value": 9.0, "limit": 7.0}
        result = evaluated(measurements(base=10.0, tuned=9.0), [gate | {"passed": False}])
        cluster = Cluster().prepared()
        finish(cluster, "train", "export")
        cluster.running("evaluate").exited("evaluate", 65, termination("GateFailed", "9.0 > 7.0", result=result))
        cluster.job_is("evaluate", "Failed")
        cluster.step()
        assert cluster.condition("Failed")["reason"] == "GateFailed"
        assert cluster.status["evaluation"]["gates"][0]["passed"] is False
        assert cluster.status["evaluation"]["gatesFailed"] == 1
        assert stages_with_jobs(cluster) == ["prepare", "train", "export", "evaluate"]

    @pytest.mark.parametrize(
        "spec",
        [{"training": {"lora": {"rank": 0}}}, {"export": {"formats": ["fp3"]}}, {"nonsense": 1}],
    )
    def test_invalid_spec(self, spec: Json) -> None:
        cluster = Cluster(**spec)
        plan = cluster.step()
        assert plan.create == []
        assert cluster.condition("Failed")["reason"] == "InvalidSpec"
        assert f"spec.{next(iter(spec))}" in cluster.condition("Failed")["message"]
        assert cluster.plan().events == [], "the event is emitted once"

    def test_final_rejection_fails_the_run(self) -> None:
        cluster = Cluster()
        cluster.rejection = Rejection("Job x-prepare", "spec.template.spec.nodeSelector: Invalid value", final=True)
        plan = cluster.step()
        assert plan.create == []
        assert cluster.condition("Failed")["reason"] == "InvalidSpec"
        assert "nodeSelector" in cluster.condition("Failed")["message"]

    def test_rejection_is_shown_and_retried(self) -> None:
        cluster = Cluster()
        cluster.rejection = Rejection("Job x-prepare", "exceeded quota: jobs", final=False)
        cluster.step()
        assert "exceeded quota" in cluster.condition("Succeeded")["message"]
        assert not cluster.condition("Failed")
        cluster.rejection = None
        assert len(cluster.step().create) == 1
        assert "message" not in cluster.stage("prepare")


class TestPreemption:
    def test_preempted_pod_is_counted_and_not_charged(self) -> None:
        cluster = Cluster().prepared().running("train")
        cluster.step()
        cluster.exited("train", 75, termination("Preempted", "SIGTERM at step 5", "A new pod goes on."))
        cluster.step()
        assert cluster.status["phase"] == "Training"
        assert cluster.stage("train")["state"] == "Pending"
        assert cluster.status["restarts"] == {"preempted": 1, "failed": 0}
        assert any(event.startswith("StagePreempted: train: pod") for event in cluster.emitted)
        cluster.running("train")
        cluster.step()
        assert cluster.stage("train")["state"] == "Running"
        cluster.exited("train", 0, termination("Completed")).job_is("train", "Complete", succeeded=1)
        cluster.step()
        assert cluster.stage("train")["restarts"] == 1
        assert cluster.status["restarts"] == {"preempted": 1, "failed": 0}

    def test_restarts_outlive_their_pods(self) -> None:
        cluster = Cluster().prepared().running("train").exited("train", 75, termination("Preempted"))
        cluster.step()
        cluster.pods.pop()
        cluster.running("train")
        cluster.step()
        assert cluster.status["restarts"]["preempted"] == 1

    def test_drained_node_is_a_preemption(self) -> None:
        cluster = Cluster().prepared().running("train")
        cluster.pods[-1]["status"]["conditions"] = [{"type": "DisruptionTarget", "status": "True"}]
        cluster.exited("train", 137)
        cluster.step()
        assert cluster.status["restarts"] == {"preempted": 1, "failed": 0}
