"""How a FineTuneJob fails, and what is not a failure."""

import pytest

from support.finetuning import FineTuning, stages_of
from support.podstatus import termination
from support.reports import evaluated, measurements
from tuneyard_operator.machinery.objects import Json
from tuneyard_operator.machinery.plan import Rejection


class TestFailure:
    def test_bad_input_has_reason_message_and_advice(self) -> None:
        cluster = FineTuning()
        cluster.step()
        message = termination("BucketNotFound", "There is no bucket nowhere", "Create it, or change dataset.train")
        cluster.run("prepare").exit("prepare", 65, message).fail_job("prepare", failed=1)
        cluster.step()
        failed = cluster.condition("Failed")
        assert failed["status"] == "True"
        assert failed["reason"] == "BucketNotFound"
        assert failed["message"] == (
            "There is no bucket nowhere. Create it, or change dataset.train. "
            "Then apply the changed spec, or without a change: kubectl tuneyard retry x -n team"
        )
        assert cluster.condition("DatasetReady")["reason"] == "BucketNotFound"
        assert cluster.condition("Succeeded")["status"] == "False"
        assert cluster.status["phase"] == "Failed"
        assert stages_of(cluster.jobs) == ["prepare"], "no GPU was asked for"
        assert any(event.startswith("BucketNotFound: ") for event in cluster.events)

    @pytest.mark.parametrize(
        ("reason", "ending"),
        [
            ("TrainingDiverged", " Change the spec and apply it again."),
            ("CredentialsMissing", " Then: kubectl tuneyard retry x -n team"),
            ("InvalidJSON", " Then apply the changed spec, or without a change: kubectl tuneyard retry x -n team"),
        ],
    )
    def test_ends_with_what_starts_the_job_again(self, reason: str, ending: str) -> None:
        cluster = FineTuning().at("train")
        cluster.run("train").exit("train", 65, termination(reason, "What is wrong", "What to do."))
        cluster.fail_job("train", failed=1).step()
        assert cluster.condition("Failed")["message"] == f"What is wrong. What to do.{ending}"

    def test_final_exit_code_is_not_a_retry(self) -> None:
        cluster = FineTuning()
        cluster.step()
        cluster.run("prepare").exit("prepare", 65, termination("InvalidJSON", "line 3"))
        cluster.step()
        assert cluster.stage("prepare")["state"] == "Running"
        assert not any("again" in event for event in cluster.events)

    @pytest.mark.parametrize(
        ("message", "reason", "expected", "says"),
        [
            ("", "Error", "StageCrashed", "exited with 1"),
            ("Traceback\nKeyError: 'x'\n", "Error", "StageCrashed", "KeyError: 'x'"),
            ('{"reason": 1', "Error", "StageCrashed", "exited with 1"),
            ("", "OOMKilled", "OOMKilled", "resources.limits.memory"),
        ],
    )
    def test_crash_without_a_reason(self, message: str, reason: str, expected: str, says: str) -> None:
        cluster = FineTuning().prepared()
        cluster.run("train").exit("train", 1, message, reason).fail_job("train", failed=4)
        cluster.step()
        assert cluster.condition("Failed")["reason"] == expected
        assert says in cluster.condition("Failed")["message"]
        assert cluster.status["restarts"] == {"preempted": 0, "failed": 4}

    def test_failed_gate_shows_the_measurements(self) -> None:
        gate = {"metric": "perplexity", "against": "base", "subject": "tuned", "value": 9.0, "limit": 7.0}
        result = evaluated(measurements(base=10.0, tuned=9.0), [gate | {"passed": False}])
        cluster = FineTuning().prepared()
        cluster.finish("train", "export")
        cluster.run("evaluate").exit("evaluate", 65, termination("GateFailed", "9.0 > 7.0", result=result))
        cluster.fail_job("evaluate")
        cluster.step()
        assert cluster.condition("Failed")["reason"] == "GateFailed"
        assert cluster.status["evaluation"]["gates"][0]["passed"] is False
        assert cluster.status["evaluation"]["gatesFailed"] == 1
        assert stages_of(cluster.jobs) == ["prepare", "train", "export", "evaluate"]

    @pytest.mark.parametrize(
        "spec",
        [{"training": {"lora": {"rank": 0}}}, {"export": {"formats": ["fp3"]}}, {"nonsense": 1}],
    )
    def test_invalid_spec(self, spec: Json) -> None:
        cluster = FineTuning(**spec)
        plan = cluster.step()
        assert plan.create == []
        assert cluster.condition("Failed")["reason"] == "InvalidSpec"
        assert f"spec.{next(iter(spec))}" in cluster.condition("Failed")["message"]
        assert cluster.dry_run().events == [], "the event is emitted once"

    def test_final_rejection_fails_the_run(self) -> None:
        cluster = FineTuning()
        cluster.rejection = Rejection("Job x-prepare", "spec.template.spec.nodeSelector: Invalid value", final=True)
        plan = cluster.step()
        assert plan.create == []
        assert cluster.condition("Failed")["reason"] == "InvalidSpec"
        assert "nodeSelector" in cluster.condition("Failed")["message"]

    def test_rejection_is_shown_and_retried(self) -> None:
        cluster = FineTuning()
        cluster.rejection = Rejection("Job x-prepare", "exceeded quota: jobs", final=False)
        cluster.step()
        assert "exceeded quota" in cluster.condition("Succeeded")["message"]
        assert not cluster.condition("Failed")
        cluster.rejection = None
        assert len(cluster.step().create) == 1
        assert "message" not in cluster.stage("prepare")


class TestPreemption:
    def test_preempted_pod_is_counted_and_not_charged(self) -> None:
        cluster = FineTuning().prepared().run("train")
        cluster.step()
        cluster.exit("train", 75, termination("Preempted", "SIGTERM at step 5", "A new pod goes on."))
        cluster.step()
        assert cluster.status["phase"] == "Training"
        assert cluster.stage("train")["state"] == "Pending"
        assert cluster.status["restarts"] == {"preempted": 1, "failed": 0}
        assert any(event.startswith("StagePreempted: train: pod") for event in cluster.events)
        cluster.run("train")
        cluster.step()
        assert cluster.stage("train")["state"] == "Running"
        cluster.exit("train", 0, termination("Completed")).complete_job("train")
        cluster.step()
        assert cluster.stage("train")["restarts"] == 1
        assert cluster.status["restarts"] == {"preempted": 1, "failed": 0}

    def test_restarts_outlive_their_pods(self) -> None:
        cluster = FineTuning().prepared().run("train").exit("train", 75, termination("Preempted"))
        cluster.step()
        cluster.remove_pod()
        cluster.run("train")
        cluster.step()
        assert cluster.status["restarts"]["preempted"] == 1

    def test_drained_node_is_a_preemption(self) -> None:
        cluster = FineTuning().prepared().run("train")
        cluster.pods[-1]["status"]["conditions"] = [{"type": "DisruptionTarget", "status": "True"}]
        cluster.exit("train", 137)
        cluster.step()
        assert cluster.status["restarts"] == {"preempted": 1, "failed": 0}
