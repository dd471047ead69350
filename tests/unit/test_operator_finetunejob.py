"""What a FineTuneJob needs next, from what is in the cluster."""

import json
import math
from typing import Any

import pytest

from operatorbuilders import ARTIFACT, DIGESTS, PUBLISHED, SETTINGS, Cluster, fine_tune_job, said
from tuneyard_api.finetunejob import FineTuneJobSpec, FineTuneJobStatus
from tuneyard_api.names import STAGES, Stage
from tuneyard_operator.finetunejob.children import config_map, config_name, job_name, stage_job
from tuneyard_operator.finetunejob.progress import duration, progress_status
from tuneyard_operator.finetunejob.revision import revision
from tuneyard_operator.objects import Json
from tuneyard_operator.plans import Refusal


def stages_with_jobs(cluster: Cluster) -> list[str]:
    return [job["metadata"]["labels"]["tuneyard.dev/stage"] for job in cluster.jobs]


def finish(cluster: Cluster, *stages: Stage) -> None:
    for stage in stages:
        cluster.completed(stage, PUBLISHED if stage == "publish" else None)
        cluster.step()


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
        assert stages_with_jobs(cluster) == list(STAGES)
        assert cluster.status["phase"] == "Publishing"
        finish(cluster, "publish")
        assert cluster.status["phase"] == "Succeeded"
        assert cluster.condition("Succeeded")["status"] == "True"
        assert not cluster.condition("Failed")
        assert cluster.status["artifacts"] == [ARTIFACT]
        assert cluster.status["recommended"]["format"] == "bf16"
        assert cluster.status["evaluation"]["perplexity"] == {"base": 9.0, "tuned": 3.0}
        assert cluster.status["releaseURI"] == "s3://out/release.json"

    @pytest.mark.parametrize("finished", range(len(STAGES) + 1))
    def test_a_second_look_does_nothing(self, finished: int) -> None:
        """The operator may be killed and started at any time; the status is one that the API takes."""
        cluster = Cluster()
        if finished:
            cluster.prepared()
        else:
            cluster.step()
        finish(cluster, *STAGES[1:finished])
        again = cluster.plan()
        assert again.status == cluster.status
        assert (again.apply, again.create, again.delete, again.events) == ([], [], [], [])
        FineTuneJobStatus.model_validate(again.status)

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
        for stage in STAGES[1:]:
            (container,) = cluster.job_of(stage)["spec"]["template"]["spec"]["containers"]
            variables = {each["name"]: each["value"] for each in container["env"]}
            assert json.loads(variables["TUNEYARD_DIGESTS"]) == DIGESTS

    def test_a_result_that_went_with_its_pod_is_made_again(self) -> None:
        cluster = Cluster()
        cluster.step()
        cluster.job_is("prepare", "Complete", succeeded=1)
        plan = cluster.step()
        assert [thing["kind"] for thing in plan.delete] == ["Job"]
        assert cluster.stage("prepare")["state"] == "Pending"
        cluster.step()
        assert stages_with_jobs(cluster) == ["prepare"]

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
        finish(cluster, *STAGES[1:])
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


class TestFailure:
    def test_bad_input_ends_with_reason_message_and_advice(self) -> None:
        cluster = Cluster()
        cluster.step()
        message = said("BucketNotFound", "There is no bucket nowhere", "Create it, or change dataset.train")
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
        assert any(told.startswith("BucketNotFound: ") for told in cluster.told)

    def test_nothing_is_told_as_a_retry_before_the_job_has_failed_for_good(self) -> None:
        cluster = Cluster()
        cluster.step()
        cluster.running("prepare").exited("prepare", 65, said("InvalidJSON", "line 3"))
        cluster.step()
        assert cluster.stage("prepare")["state"] == "Running"
        assert not any("again" in told for told in cluster.told)

    @pytest.mark.parametrize(
        ("message", "reason", "expected", "says"),
        [
            ("", "Error", "StageCrashed", "exited with 1"),
            ("Traceback\nKeyError: 'x'\n", "Error", "StageCrashed", "KeyError: 'x'"),
            ('{"reason": 1', "Error", "StageCrashed", "exited with 1"),
            ("", "OOMKilled", "OutOfMemory", "resources.limits.memory"),
        ],
    )
    def test_a_crash_says_what_is_known(self, message: str, reason: str, expected: str, says: str) -> None:
        cluster = Cluster().prepared()
        cluster.running("train").exited("train", 1, message, reason).job_is("train", "Failed", failed=4)
        cluster.step()
        assert cluster.condition("Failed")["reason"] == expected
        assert says in cluster.condition("Failed")["message"]
        assert cluster.status["restarts"] == {"preempted": 0, "failed": 4}

    def test_a_failed_gate_shows_the_measured_values(self) -> None:
        gate = {"metric": "perplexity", "against": "base", "subject": "tuned", "value": 9.0, "limit": 7.0}
        result = {"perplexity": {"base": 10.0, "tuned": 9.0}, "gates": [gate | {"passed": False}], "passed": False}
        cluster = Cluster().prepared()
        finish(cluster, "train", "export")
        cluster.running("evaluate").exited("evaluate", 65, said("GateFailed", "9.0 > 7.0", result=result))
        cluster.job_is("evaluate", "Failed")
        cluster.step()
        assert cluster.condition("Failed")["reason"] == "GateFailed"
        assert cluster.status["evaluation"]["gates"][0]["passed"] is False
        assert stages_with_jobs(cluster) == ["prepare", "train", "export", "evaluate"]

    def test_a_result_of_another_version_is_a_failure_with_advice(self) -> None:
        cluster = Cluster()
        cluster.step()
        cluster.completed("prepare", {"digest": "old"})
        cluster.step()
        assert "same version" in cluster.condition("Failed")["message"]

    @pytest.mark.parametrize(
        "spec",
        [{"training": {"lora": {"rank": 0}}}, {"export": {"formats": ["fp3"]}}, {"nonsense": 1}],
    )
    def test_a_spec_that_only_we_understand_to_be_wrong(self, spec: Json) -> None:
        cluster = Cluster(**spec)
        plan = cluster.step()
        assert plan.create == []
        assert cluster.condition("Failed")["reason"] == "InvalidSpec"
        assert f"spec.{next(iter(spec))}" in cluster.condition("Failed")["message"]
        assert cluster.plan().events == [], "it is told once"

    def test_a_refusal_that_nothing_but_a_new_spec_heals_ends_the_run(self) -> None:
        cluster = Cluster()
        cluster.refusal = Refusal("Job x-prepare", "spec.template.spec.nodeSelector: Invalid value", final=True)
        plan = cluster.step()
        assert plan.create == []
        assert cluster.condition("Failed")["reason"] == "InvalidSpec"
        assert "nodeSelector" in cluster.condition("Failed")["message"]

    def test_a_refusal_that_may_pass_is_shown_and_tried_again(self) -> None:
        cluster = Cluster()
        cluster.refusal = Refusal("Job x-prepare", "exceeded quota: jobs", final=False)
        cluster.step()
        assert "exceeded quota" in cluster.condition("Succeeded")["message"]
        assert not cluster.condition("Failed")
        cluster.refusal = None
        assert len(cluster.step().create) == 1
        assert "message" not in cluster.stage("prepare")


class TestPreemption:
    def test_a_pod_that_was_taken_away_is_counted_and_not_charged(self) -> None:
        cluster = Cluster().prepared().running("train")
        cluster.step()
        cluster.exited("train", 75, said("Preempted", "SIGTERM at step 5", "A new pod goes on."))
        cluster.step()
        assert cluster.status["phase"] == "Training"
        assert cluster.stage("train")["state"] == "Pending"
        assert cluster.status["restarts"] == {"preempted": 1, "failed": 0}
        assert any(told.startswith("StagePreempted: train: pod") for told in cluster.told)
        cluster.running("train")
        cluster.step()
        assert cluster.stage("train")["state"] == "Running"
        cluster.exited("train", 0, said("Completed")).job_is("train", "Complete", succeeded=1)
        cluster.step()
        assert cluster.stage("train")["restarts"] == 1
        assert cluster.status["restarts"] == {"preempted": 1, "failed": 0}

    def test_restarts_are_not_forgotten_when_the_pods_are_gone(self) -> None:
        cluster = Cluster().prepared().running("train").exited("train", 75, said("Preempted"))
        cluster.step()
        cluster.pods.pop()
        cluster.running("train")
        cluster.step()
        assert cluster.status["restarts"]["preempted"] == 1

    def test_a_node_that_is_drained_is_a_preemption(self) -> None:
        cluster = Cluster().prepared().running("train")
        cluster.pods[-1]["status"]["conditions"] = [{"type": "DisruptionTarget", "status": "True"}]
        cluster.exited("train", 137)
        cluster.step()
        assert cluster.status["restarts"] == {"preempted": 1, "failed": 0}


UNSCHEDULABLE = {
    "type": "PodScheduled",
    "status": "False",
    "reason": "Unschedulable",
    "message": "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.",
}


class TestWaiting:
    @pytest.mark.parametrize(
        ("state", "conditions", "says"),
        [
            (None, [UNSCHEDULABLE], "Insufficient nvidia.com/gpu"),
            ({"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}, [], "ImagePullBackOff: no such"),
            ({"waiting": {"reason": "CreateContainerConfigError", "message": "no config"}}, [], "no config"),
        ],
    )
    def test_a_pod_that_cannot_start_says_why(self, state: Json | None, conditions: list[Json], says: str) -> None:
        cluster = Cluster().prepared()
        cluster.pod("train", state, phase="Pending", conditions=conditions)
        cluster.step()
        assert says in cluster.stage("train")["message"]
        assert says in cluster.condition("Trained")["message"]
        assert says in cluster.condition("Succeeded")["message"]
        assert cluster.stage("train")["state"] == "Pending"
        assert any("StageWaiting" in told and says in told for told in cluster.told)
        assert cluster.plan().again is None, "the pod's next change wakes us"

    def test_a_pod_that_starts_as_usual_says_nothing(self) -> None:
        cluster = Cluster().prepared()
        cluster.pod("train", {"waiting": {"reason": "ContainerCreating"}}, phase="Pending")
        cluster.step()
        assert "message" not in cluster.stage("train")

    def test_a_job_without_a_pod_says_what_its_events_say(self) -> None:
        cluster = Cluster().prepared()
        uid = cluster.job_of("train")["metadata"]["uid"]
        cluster.warnings = {uid: 'FailedCreate: pods "x" is forbidden: exceeded quota'}
        plan = cluster.step()
        assert "exceeded quota" in cluster.stage("train")["message"]
        assert plan.again, "no event tells us when the quota is raised"


class TestProgress:
    def test_is_shown_while_the_stage_runs(self) -> None:
        cluster = Cluster().prepared()
        cluster.running("train", percent=40, step=4, steps=10, loss=1.23456, etaSeconds=250, tokensPerSecond=812.34)
        plan = cluster.step()
        assert cluster.status["progress"] == {
            "percent": 40,
            "step": 4,
            "steps": 10,
            "loss": 1.2346,
            "eta": "4m10s",
            "tokensPerSecond": 812.3,
        }
        assert plan.again == SETTINGS.poll

    def test_of_one_stage_is_not_shown_for_the_next(self) -> None:
        cluster = Cluster().prepared().running("train", percent=90, loss=1.0)
        cluster.step()
        cluster.exited("train", 0, said("Completed")).job_is("train", "Complete", succeeded=1)
        cluster.step()
        cluster.running("export")
        cluster.step()
        assert "progress" not in cluster.status

    @pytest.mark.parametrize(
        ("percent", "since", "shown"),
        [(41, 1, 40), (44, 14.9, 40), (45, 1, 45), (35, 1, 35), (41, 15, 41), (40, math.inf, 40)],
    )
    def test_is_written_at_five_percent_or_fifteen_seconds(self, percent: int, since: float, shown: int) -> None:
        before = {"stages": [{"name": "train", "state": "Running"}], "progress": {"percent": 40}}
        status = progress_status({"stage": "train", "percent": percent}, "train", before, since)
        assert status == {"percent": shown}

    def test_survives_a_stage_that_does_not_answer_for_a_while(self) -> None:
        before = {"stages": [{"name": "train", "state": "Running"}], "progress": {"percent": 40}}
        assert progress_status(None, "train", before, 100) == {"percent": 40}

    @pytest.mark.parametrize(
        ("seconds", "text"), [(0, "0s"), (59.9, "59s"), (60, "1m00s"), (250, "4m10s"), (3725, "1h02m")]
    )
    def test_duration(self, seconds: float, text: str) -> None:
        assert duration(seconds) == text


def pod_of(stage: Stage, **spec: Any) -> Json:
    job = fine_tune_job(**spec)
    built = stage_job(job, FineTuneJobSpec.model_validate(job["spec"]), stage, DIGESTS, SETTINGS)
    pod: Json = built["spec"]["template"]["spec"]
    return pod


class TestChildren:
    @pytest.mark.parametrize("stage", STAGES)
    def test_pods_are_restricted(self, stage: Stage) -> None:
        pod = pod_of(stage)
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        assert pod["restartPolicy"] == "Never"
        for container in pod["containers"]:
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["readOnlyRootFilesystem"] is True
            assert security["capabilities"] == {"drop": ["ALL"]}

    def test_only_training_asks_for_gpus(self) -> None:
        resources = {
            "gpus": 2,
            "requests": {"cpu": "1"},
            "limits": {"cpu": "1500m", "memory": "8Gi"},
            "nodeSelector": {"gpu": "a"},
            "runtimeClassName": "nvidia",
            "tolerations": [{"key": "gpu", "operator": "Exists"}],
        }
        for stage in STAGES:
            pod = pod_of(stage, resources=resources)
            limits = pod["containers"][0]["resources"]["limits"]
            expected = {"cpu": "1500m", "memory": "8Gi"} | ({"nvidia.com/gpu": "2"} if stage == "train" else {})
            assert limits == expected, stage
            for placed in ("nodeSelector", "runtimeClassName", "tolerations"):
                assert (placed in pod) is (stage == "train"), stage

    def test_on_the_cpu_all_stages_go_where_they_were_told(self) -> None:
        resources = {"gpus": 0, "nodeSelector": {"disk": "fast"}}
        assert pod_of("export", resources=resources)["nodeSelector"] == {"disk": "fast"}

    @pytest.mark.parametrize(
        ("resources", "threads"),
        [
            ({"limits": {"cpu": "2"}}, "2"),
            ({"limits": {"cpu": "1500m"}, "requests": {"cpu": "100m"}}, "2"),
            ({"requests": {"cpu": 3}}, "3"),
            ({"requests": {"cpu": "0.5"}}, "1"),
            ({}, None),
        ],
    )
    def test_threads_follow_the_cpu(self, resources: Json, threads: str | None) -> None:
        env = {each["name"]: each["value"] for each in pod_of("train", resources=resources)["containers"][0]["env"]}
        assert env.get("TUNEYARD_THREADS") == threads

    def test_labels_and_annotations_of_the_user_do_not_spread(self) -> None:
        job = fine_tune_job()
        spec = FineTuneJobSpec.model_validate(job["spec"])
        for child in (config_map(job), stage_job(job, spec, "train", DIGESTS, SETTINGS)):
            assert "argocd" not in json.dumps(child)
            assert set(child["metadata"]["labels"]) <= {
                "app.kubernetes.io/managed-by",
                "tuneyard.dev/finetunejob",
                "tuneyard.dev/revision",
                "tuneyard.dev/stage",
            }
            (owner,) = child["metadata"]["ownerReferences"]
            assert (owner["uid"], owner["controller"]) == ("uid-x", True)

    def test_the_job_file_has_what_the_stages_read(self) -> None:
        built = config_map(fine_tune_job())
        assert built["immutable"] is True
        job = json.loads(built["data"]["job.json"])
        assert job["metadata"] == {"name": "x", "namespace": "team", "uid": "uid-x"}
        FineTuneJobSpec.model_validate(job["spec"])

    def test_names_are_the_runs(self) -> None:
        job = fine_tune_job()
        assert job_name(job, "train") == f"x-train-{revision(job)}"
        assert config_name(job) == f"x-{revision(job)}"
        namesake = fine_tune_job()
        namesake["metadata"]["uid"] = "another"
        assert revision(namesake) != revision(job)

    def test_the_failure_policy_names_each_class_of_exit_code(self) -> None:
        job = fine_tune_job(retryPolicy={"backoffLimit": 7})
        spec = FineTuneJobSpec.model_validate(job["spec"])
        built = stage_job(job, spec, "train", DIGESTS, SETTINGS)["spec"]
        assert built["backoffLimit"] == 7
        rules = built["podFailurePolicy"]["rules"]
        codes = {rule["action"]: rule["onExitCodes"]["values"] for rule in rules if "onExitCodes" in rule}
        assert codes == {"FailJob": [65, 78], "Ignore": [75]}
        assert built["podReplacementPolicy"] == "Failed", "two pods never write one checkpoint"
        assert built["template"]["spec"]["terminationGracePeriodSeconds"] == 120
