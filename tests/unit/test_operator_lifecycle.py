"""The life of a FineTuneJob beyond apply and wait: another spec, suspend, queues, the end."""

from collections.abc import Callable
from typing import Any

import pytest

from support.builders import SETTINGS, fine_tune_job
from support.finetuning import FineTuning, stages_of
from support.podstatus import termination
from support.reports import CHAIN, DIGESTS, PREPARED, PUBLISHED
from tuneyard_api.kinds.finetunejob import CHANGEABLE, FineTuneJobSpec
from tuneyard_api.kinds.finetunejob_status import FineTuneJobStatus
from tuneyard_api.names import LABEL_QUEUE, Stage
from tuneyard_api.runs import revision
from tuneyard_operator.finetunejob.children import config_map, stage_job
from tuneyard_operator.finetunejob.controller import without_template
from tuneyard_operator.machinery.objects import Json, name, uid


def finished(**spec: Any) -> FineTuning:
    return FineTuning(**spec).prepared().finish(*CHAIN[1:])


def failed(**spec: Any) -> FineTuning:
    cluster = FineTuning(**spec).prepared()
    cluster.run("train").exit("train", 1, reason="OOMKilled").fail_job("train", failed=4)
    cluster.step()
    return cluster


def does_nothing(cluster: FineTuning) -> None:
    plan = cluster.dry_run()
    assert (plan.status, plan.apply, plan.create, plan.delete) == (cluster.status, [], [], [])


class TestIdentity:
    @pytest.mark.parametrize("field", [info.alias or key for key, info in FineTuneJobSpec.model_fields.items()])
    def test_covers_all_but_the_changeable_fields(self, field: str) -> None:
        job = fine_tune_job()
        changed = fine_tune_job(**{field: "another"})
        assert (revision(job) == revision(changed)) is (field in CHANGEABLE)

    def test_is_not_the_generation(self) -> None:
        job = fine_tune_job()
        before = revision(job)
        job["metadata"]["generation"] = 7
        assert revision(job) == before

    def test_is_in_the_status(self) -> None:
        cluster = FineTuning().prepared()
        assert cluster.status["revision"] == revision(cluster.job)
        FineTuneJobStatus.model_validate(cluster.status)

    def test_lifetime_changes_no_job(self) -> None:
        cluster = FineTuning().prepared().run("train")
        cluster.step()
        cluster.change(ttlSecondsAfterFinished=60).step()
        assert cluster.status["observedGeneration"] == 2
        assert cluster.stage("train")["state"] == "Running"
        does_nothing(cluster)


class TestAnotherSpec:
    @pytest.mark.lifecycle("changed-after-failure")
    def test_after_a_failure(self) -> None:
        """With the change that the advice of a stage that ran out of memory proposes."""
        cluster = failed()
        cluster.change(resources={"limits": {"memory": "64Gi"}}).step()
        cluster.step()
        assert cluster.status["phase"] == "Pending"
        assert stages_of(cluster.jobs) == ["prepare"]
        assert cluster.status["restarts"] == {"preempted": 0, "failed": 0}, "the failures were the earlier run's"

    @pytest.mark.lifecycle("changed-after-success")
    def test_after_success_reuses_stages(self) -> None:
        cluster = finished()
        cluster.change(priorityClassName="high").step()
        cluster.prepared("train", "export", "evaluate")
        assert stages_of(cluster.jobs) == ["prepare", "publish"]

    @pytest.mark.lifecycle("changed-while-pending")
    def test_while_pending(self) -> None:
        cluster = FineTuning()
        cluster.step()
        (old,) = cluster.jobs
        plan = cluster.change(training={"maxSteps": 7}).step()
        assert list(map(uid, plan.delete)) == [uid(old)]
        cluster.step()
        (new,) = cluster.jobs
        assert name(new) != name(old)

    @pytest.mark.lifecycle("changed-while-suspended")
    def test_while_suspended_reuses_stages(self) -> None:
        """Training resumes from its checkpoint, because no digest covers the resources."""
        cluster = FineTuning(suspend=False).prepared().run("train")
        cluster.step()
        cluster.change(suspend=True).step()
        cluster.step()
        cluster.change(resources={"gpus": 2}).step()
        cluster.step()
        assert cluster.jobs == []
        assert cluster.status["phase"] == "Suspended"
        cluster.change(suspend=False).prepared("prepare")
        assert stages_of(cluster.jobs) == ["prepare", "train"]

    @pytest.mark.parametrize("ended", [finished, failed])
    @pytest.mark.parametrize(
        "change", [{"suspend": True}, {"ttlSecondsAfterFinished": 60}, {"onSpecChange": "Replace"}]
    )
    @pytest.mark.lifecycle("lifetime-changed-after-end")
    def test_changeable_field_runs_nothing(self, ended: Callable[[], FineTuning], change: Json) -> None:
        cluster = ended()
        before = cluster.status
        cluster.change(**change).step()
        assert cluster.status["observedGeneration"] == 2
        assert {each["observedGeneration"] for each in cluster.status["conditions"]} == {2}
        assert cluster.status["phase"] == before["phase"]
        assert cluster.status["stages"] == before["stages"]
        assert not cluster.condition("Suspended")
        does_nothing(cluster)

    def test_reverted_spec_runs_again(self) -> None:
        cluster = failed()
        first = cluster.status["revision"]
        cluster.change(resources={"gpus": 2}).step()
        cluster.step()
        cluster.change(resources=None).step()
        cluster.step()
        assert cluster.status["revision"] == first
        assert cluster.status["phase"] == "Pending"
        assert stages_of(cluster.jobs) == ["prepare"]


class TestReplace:
    @pytest.mark.lifecycle("replaced-while-running")
    def test_running_stage_is_stopped_and_a_new_run_begins(self) -> None:
        cluster = FineTuning().prepared().run("train", percent=40)
        cluster.step()
        old = cluster.job_of("train")
        cluster.change(training={"maxSteps": 7}, onSpecChange="Replace")
        plan = cluster.reconcile()
        assert uid(old) in map(uid, plan.delete)
        assert plan.create == []
        assert cluster.status["phase"] == "Pending"
        assert cluster.status["revision"] == revision(cluster.job)
        assert cluster.stage("prepare")["message"] == f"waits for the pods of an earlier run to end: Job {name(old)}"
        assert [event for event in cluster.events if event.startswith("Replaced: train: the spec has changed")]
        assert cluster.reconcile().create == [], "while its pod writes the checkpoint"
        assert sum(event.startswith("Replaced") for event in cluster.events) == 1
        for job in list(cluster.jobs):
            cluster.garbage_collector.finish(job)
        cluster.step()
        assert stages_of(cluster.jobs) == ["prepare"]

    def test_only_other_resources_resume_from_the_checkpoint(self) -> None:
        """No digest covers the resources: the new run's train finds the checkpoint of the old one."""
        cluster = FineTuning(onSpecChange="Replace").prepared().run("train")
        cluster.step()
        cluster.change(resources={"gpus": 2}).step()
        cluster.prepared()
        assert stages_of(cluster.jobs) == ["prepare", "train"]
        assert cluster.stage("train")["digest"] == DIGESTS["train"]

    def test_suspended_in_the_same_change(self) -> None:
        cluster = FineTuning(onSpecChange="Replace").prepared().run("train")
        cluster.step()
        cluster.change(training={"maxSteps": 7}, suspend=True).step()
        cluster.step()
        assert cluster.status["phase"] == "Suspended"
        assert cluster.jobs == []

    @pytest.mark.lifecycle("rerun")
    def test_rerun_reads_the_data_again(self) -> None:
        cluster = finished()
        cluster.change(rerun="2026-11-01").step()
        cluster.prepared("prepare", "train", "export", "evaluate")
        assert stages_of(cluster.jobs) == ["prepare", "publish"]
        cluster.complete("publish", PUBLISHED).step()
        does_nothing(cluster)


class TestRetry:
    @pytest.mark.lifecycle("job-retried")
    def test_annotation_runs_again_what_failed(self) -> None:
        """Without a change of the spec, which git would take back."""
        cluster = failed()
        cluster.job["metadata"]["annotations"]["tuneyard.dev/retry"] = "2026-11-01T12:00:00Z"
        cluster.step()
        cluster.prepared("prepare")
        assert stages_of(cluster.jobs) == ["prepare", "train"]
        assert cluster.status["phase"] == "Training"
        assert not cluster.condition("Failed")


class TestSuspend:
    @pytest.mark.lifecycle("created-suspended")
    def test_created_suspended(self) -> None:
        cluster = FineTuning(suspend=True)
        plan = cluster.step()
        assert (plan.apply, plan.create) == ([], [])
        assert cluster.status["phase"] == "Suspended"
        assert cluster.condition("Suspended")["status"] == "True"
        assert "spec.suspend to false" in cluster.condition("Suspended")["message"]
        does_nothing(cluster)
        cluster.change(suspend=False).step()
        assert stages_of(cluster.jobs) == ["prepare"]

    @pytest.mark.lifecycle("suspended")
    def test_running_stage_is_stopped(self) -> None:
        cluster = FineTuning().prepared().run("train", percent=40)
        cluster.step()
        plan = cluster.change(suspend=True).dry_run()
        assert plan.delete == [without_template(cluster.job_of("train"))]
        cluster.reconcile()
        assert cluster.dry_run().status == plan.status, "while its pod writes the checkpoint"
        assert name(cluster.job_of("train")) in cluster.condition("Suspended")["message"]
        assert cluster.dry_run().create == []
        cluster.garbage_collector.finish(cluster.job_of("train"))
        cluster.step()
        assert cluster.status["phase"] == "Suspended"
        assert cluster.condition("Suspended")["message"] == "Set spec.suspend to false to resume."
        assert cluster.stage("prepare")["state"] == "Succeeded"
        assert cluster.stage("train") == {"name": "train", "state": "Pending", "digest": DIGESTS["train"]}
        assert cluster.status["progress"] == {"percent": 40}
        does_nothing(cluster)

    @pytest.mark.lifecycle("resumed")
    def test_resume_starts_the_stopped_stage(self) -> None:
        cluster = FineTuning().prepared().run("train")
        cluster.step()
        cluster.change(suspend=True).step()
        cluster.change(suspend=False).step()
        assert stages_of(cluster.jobs) == ["prepare", "train"]
        assert cluster.status["phase"] == "Training"
        assert not cluster.condition("Suspended")
        assert cluster.status["restarts"] == {"preempted": 0, "failed": 0}
        reasons = [event.split(":")[0] for event in cluster.events]
        assert [reason for reason in reasons if reason in ("Suspended", "Resumed")] == ["Suspended", "Resumed"]

    @pytest.mark.lifecycle("resumed-while-stopping")
    def test_resume_waits_for_the_old_job(self) -> None:
        cluster = FineTuning().prepared().run("train")
        cluster.step()
        cluster.delete(cluster.job_of("train"))
        plan = cluster.change(suspend=False).step()
        assert plan.create == []
        assert "is being deleted" in cluster.stage("train")["message"]
        does_nothing(cluster)
        cluster.garbage_collector.finish(cluster.job_of("train"))
        assert len(cluster.step().create) == 1

    @pytest.mark.lifecycle("suspended-at-stage-end")
    def test_ended_stage_keeps_its_result(self) -> None:
        cluster = FineTuning()
        cluster.step()
        cluster.run("prepare").exit("prepare", 0, termination("Completed", result=PREPARED))
        assert cluster.change(suspend=True).step().delete == []
        cluster.complete_job("prepare").step()
        assert cluster.stage("prepare")["state"] == "Succeeded"
        assert cluster.status["phase"] == "Suspended"
        assert stages_of(cluster.jobs) == ["prepare"]

    def test_last_stage_that_ended_is_success(self) -> None:
        cluster = FineTuning().prepared("train", "export", "evaluate")
        cluster.complete("publish", PUBLISHED)
        cluster.change(suspend=True).step()
        assert cluster.status["phase"] == "Succeeded"
        assert not cluster.condition("Suspended")


class TestLifetime:
    """The clock of these tests: `finished` and `failed` return one second after the end."""

    @pytest.mark.parametrize(("seconds", "left"), [(None, None), (60, 59.0), (1, None), (0, None)])
    @pytest.mark.lifecycle("lifetime-over")
    def test_after_the_end(self, seconds: int | None, left: float | None) -> None:
        cluster = finished(ttlSecondsAfterFinished=seconds) if seconds is not None else finished()
        plan = cluster.dry_run()
        assert plan.requeue_after == left
        assert plan.delete == ([cluster.job] if seconds in (0, 1) else [])
        assert plan.status == cluster.status, "nothing is written to what goes"

    def test_may_change_after_the_end(self) -> None:
        cluster = finished()
        cluster.wait(99)
        assert cluster.change(ttlSecondsAfterFinished=60).dry_run().delete == [cluster.job]
        assert cluster.change(ttlSecondsAfterFinished=300).dry_run().requeue_after == 200
        assert cluster.change(ttlSecondsAfterFinished=None).dry_run().requeue_after is None

    @pytest.mark.lifecycle("lifetime-over")
    def test_begins_with_a_failure_too(self) -> None:
        cluster = failed(ttlSecondsAfterFinished=60)
        assert cluster.dry_run().requeue_after == 59
        cluster.wait(59)
        assert cluster.dry_run().delete == [cluster.job]

    def test_does_not_begin_before_the_end(self) -> None:
        cluster = FineTuning(ttlSecondsAfterFinished=0).prepared().run("train")
        cluster.wait(9 * 86400)
        assert cluster.step().delete == []


class TestQueue:
    @pytest.mark.parametrize("stage", CHAIN)
    def test_only_training_is_queued(self, stage: Stage) -> None:
        job = fine_tune_job(queueName="gpus")
        built = stage_job(job, revision(job), FineTuneJobSpec.model_validate(job["spec"]), stage, DIGESTS, SETTINGS)
        assert (built["metadata"]["labels"].get(LABEL_QUEUE) == "gpus") is (stage == "train")
        assert (built["spec"].get("suspend") is True) is (stage == "train")

    def test_waiting_for_quota(self) -> None:
        cluster = FineTuning(queueName="gpus").prepared()
        plan = cluster.step()
        assert cluster.status["phase"] == "Training"
        assert cluster.stage("train")["state"] == "Pending"
        assert cluster.stage("train")["message"].startswith(
            "waits in queue gpus until Kueue admits it: kubectl describe localqueue gpus"
        )
        assert "queue gpus" in cluster.condition("Trained")["message"]
        assert plan.requeue_after is None, "Kueue's change of the Job wakes us"
        does_nothing(cluster)

    def test_changes_of_kueue_are_kept(self) -> None:
        cluster = FineTuning(queueName="gpus").prepared()
        job = cluster.job_of("train")
        job["spec"]["suspend"] = False
        job["spec"]["template"]["spec"]["nodeSelector"] = {"flavor": "h100"}
        plan = cluster.run("train").step()
        assert (plan.apply, plan.create, plan.delete) == ([], [], [])
        assert cluster.stage("train")["state"] == "Running"
        assert "message" not in cluster.stage("train")

    @pytest.mark.lifecycle("quota-taken-back")
    def test_preemption_waits_in_the_queue_again(self) -> None:
        cluster = FineTuning(queueName="gpus").prepared()
        job = cluster.job_of("train")
        job["spec"]["suspend"] = False
        cluster.run("train").step()
        job["spec"]["suspend"] = True
        cluster.exit("train", 75, termination("Preempted", "SIGTERM at step 5"))
        plan = cluster.step()
        assert (plan.apply, plan.create, plan.delete) == ([], [], [])
        assert cluster.stage("train")["message"].startswith(
            "waits in queue gpus until Kueue admits it: kubectl describe localqueue gpus"
        )
        assert cluster.status["restarts"] == {"preempted": 1, "failed": 0}
        job["spec"]["suspend"] = False
        cluster.run("train").step()
        assert cluster.stage("train")["state"] == "Running"

    def test_job_suspended_by_someone_else(self) -> None:
        cluster = FineTuning()
        cluster.step()
        cluster.job_of("prepare")["spec"]["suspend"] = True
        cluster.step()
        assert name(cluster.job_of("prepare")) in cluster.stage("prepare")["message"]
        assert "spec.suspend" in cluster.stage("prepare")["message"]

    @pytest.mark.lifecycle("suspended-in-queue")
    def test_suspend_leaves_the_queue(self) -> None:
        cluster = FineTuning(queueName="gpus").prepared()
        cluster.step()
        assert cluster.change(suspend=True).dry_run().delete == [without_template(cluster.job_of("train"))]


class TestOperator:
    @pytest.mark.lifecycle("upgraded")
    def test_new_image_is_for_later_stages(self) -> None:
        """An upgrade changes no existing Job."""
        cluster = FineTuning().prepared().run("train")
        cluster.step()
        cluster.settings = SETTINGS.model_copy(update={"trainer_image": "trainer:2"})
        plan = cluster.step()
        assert (plan.apply, plan.create, plan.delete) == ([], [], [])
        cluster.exit("train", 0, termination("Completed")).complete_job("train")
        (export,) = cluster.step().create
        assert export["spec"]["template"]["spec"]["containers"][0]["image"] == "trainer:2"

    @pytest.mark.parametrize("stage", CHAIN)
    @pytest.mark.lifecycle("deleted-while-running", "deleted-without-operator")
    def test_children_have_no_finalizers(self, stage: Stage) -> None:
        """The garbage collector deletes children by their owner references, also while the operator is down."""
        job = fine_tune_job()
        for child in (
            config_map(job, revision(job)),
            stage_job(job, revision(job), FineTuneJobSpec.model_validate(job["spec"]), stage, {}, SETTINGS),
        ):
            assert [owner["uid"] for owner in child["metadata"]["ownerReferences"]] == ["uid-x"]
            assert "finalizers" not in str(child)
        assert "finalizers" not in str(FineTuning().step())
