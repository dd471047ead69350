"""Why a FineTuneJob waits, in one word and in its message, and what survives a suspension."""

import pytest

from support.finetuning import FineTuning
from tuneyard_api.names import Stage
from tuneyard_operator.machinery.conditions import timestamp
from tuneyard_operator.machinery.plan import Rejection


def reason(cluster: FineTuning) -> str:
    return str(cluster.status.get("reason", ""))


class TestReason:
    def test_is_left_out_while_all_is_well(self) -> None:
        cluster = FineTuning().at("train")
        cluster.run("train").step()
        assert reason(cluster) == ""
        cluster.exit("train", 0).complete_job("train").step()
        cluster.finish("export", "evaluate", "publish")
        assert (cluster.status["phase"], reason(cluster)) == ("Succeeded", "")

    def test_of_a_stage_without_news(self) -> None:
        cluster = FineTuning()
        cluster.step()
        assert reason(cluster) == "Pending"

    @pytest.mark.parametrize(
        ("message", "word"),
        [("0/1 nodes are available: 1 Insufficient nvidia.com/gpu.", "Unschedulable")],
    )
    def test_of_a_pod_without_a_node(self, message: str, word: str) -> None:
        cluster = FineTuning().at("train")
        cluster.kubelet.leave_unscheduled(cluster.create_pod("train"), message)
        cluster.step()
        assert reason(cluster) == word
        assert message in cluster.stage("train")["message"]

    def test_of_an_image_that_is_not_found(self) -> None:
        cluster = FineTuning().at("train")
        cluster.kubelet.keep_waiting(cluster.create_pod("train"), "ImagePullBackOff", "no such image")
        cluster.step()
        assert reason(cluster) == "ImagePullBackOff"

    def test_of_a_queue(self) -> None:
        cluster = FineTuning(queueName="gpus").at("train")
        cluster.step()
        assert reason(cluster) == "Queued"

    def test_of_a_failure(self) -> None:
        cluster = FineTuning(model={"uri": "nowhere"})
        cluster.step()
        assert reason(cluster) == "InvalidSpec"

    @pytest.mark.parametrize(
        ("denial", "word", "advice"),
        [
            ("failed quota: q: must specify limits.cpu for: stage", "QuotaExceeded", "set them in spec.resources"),
            (
                "exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1",
                "QuotaExceeded",
                "Raise ResourceQuota q",
            ),
            ("maximum memory usage per Container is 1Gi, but limit is 2Gi", "LimitRange", "Change spec.resources"),
            (
                'admission webhook "images.example.org" denied the request: unsigned',
                "AdmissionDenied",
                "images.example.org",
            ),
        ],
    )
    def test_of_a_pod_that_is_denied(self, denial: str, word: str, advice: str) -> None:
        cluster = FineTuning()
        cluster.step()
        cluster.wait(10)
        cluster.warn(cluster.job_of("prepare"), "FailedCreate", f'Error creating: pods "x" is forbidden: {denial}')
        cluster.step()
        assert reason(cluster) == word
        for part in (denial, advice):
            assert part in cluster.stage("prepare")["message"]

    def test_of_a_job_that_is_rejected(self) -> None:
        cluster = FineTuning()
        cluster.sync()
        cluster.rejection = Rejection("Job x-prepare", "exceeded quota: q, requested: count/jobs.batch=1", final=False)
        cluster.write_status(cluster.plan())
        assert reason(cluster) == "QuotaExceeded"
        assert "Raise ResourceQuota q" in cluster.stage("prepare")["message"]


def denied(stage: Stage, denial: str, **spec: str) -> FineTuning:
    """A cluster whose API server denies the pods of a stage."""
    cluster = FineTuning(**spec).at(stage)
    cluster.wait(10)
    cluster.warn(cluster.job_of(stage), "FailedCreate", f'Error creating: pods "x" is forbidden: {denial}')
    cluster.step()
    return cluster


def denied_message(stage: Stage, denial: str, **spec: str) -> str:
    return str(denied(stage, denial, **spec).stage(stage)["message"])


class TestRemedyOfAWait:
    """While a stage waits the API server refuses a change of the spec, unless onSpecChange is Replace."""

    LIMIT = "maximum memory usage per Container is 1Gi, but limit is 2Gi"
    QUOTA = "exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1"
    REMEDY = "Set onSpecChange: Replace with a change of the spec."

    def test_names_replace_where_the_spec_has_to_change(self) -> None:
        assert denied_message("train", self.LIMIT).endswith(f". {self.REMEDY}")

    def test_is_said_once(self) -> None:
        cluster = denied("train", self.LIMIT)
        cluster.step()
        cluster.step()
        assert cluster.stage("train")["message"].count(self.REMEDY) == 1

    def test_is_left_out_with_replace(self) -> None:
        assert self.REMEDY not in denied_message("train", self.LIMIT, onSpecChange="Replace")

    def test_is_left_out_where_the_remedy_is_in_the_cluster(self) -> None:
        assert self.REMEDY not in denied_message("train", self.QUOTA)

    def test_is_left_out_before_the_first_stage_runs(self) -> None:
        assert self.REMEDY not in denied_message("prepare", self.LIMIT)


def test_quota_that_changes_enqueues_who_waits_for_it() -> None:
    cluster = FineTuning()
    metadata = {"name": "q", "namespace": "team"}
    quota = cluster.create(
        {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": metadata, "status": {"hard": {"pods": "1"}}}
    )
    cluster.sync()
    cluster.queue.clear()
    quota["status"]["hard"] = {"pods": "2"}
    cluster.sync()
    assert cluster.key not in cluster.queue, "it does not wait for it"
    cluster.rejection = Rejection("Job x-prepare", "exceeded quota: q, requested: count/jobs.batch=1", final=False)
    cluster.write_status(cluster.plan())
    cluster.queue.clear()
    quota["status"]["hard"] = {"pods": "3"}
    cluster.sync()
    assert cluster.key in cluster.queue


class TestSuspension:
    def suspended(self) -> FineTuning:
        cluster = FineTuning().at("train")
        cluster.job_of("train")["status"]["startTime"] = timestamp(cluster.now)
        cluster.run("train", percent=40, step=4, steps=10, loss=1.5, eta="2m00s").step()
        cluster.wait(100)
        cluster.change(suspend=True)
        cluster.step()
        cluster.wait(1000)
        cluster.step()
        return cluster

    def test_percent_and_loss_stay(self) -> None:
        cluster = self.suspended()
        assert (cluster.status["phase"], reason(cluster)) == ("Suspended", "Suspended")
        progress = cluster.status["progress"]
        assert (progress["percent"], progress["loss"], progress["step"]) == (40, 1.5, 4)
        assert "eta" not in progress, "nobody knows"

    def test_duration_stays(self) -> None:
        cluster = self.suspended()
        before = cluster.stage("train")["ranSeconds"]
        assert 100 <= before < 120, "the time while it is suspended does not count"
        cluster.change(suspend=False)
        cluster.step()
        cluster.job_of("train")["status"]["startTime"] = timestamp(cluster.now)
        cluster.run("train").step()
        cluster.wait(50)
        cluster.exit("train", 0).complete_job("train").step()
        (completed,) = [event for event in cluster.events if event.startswith("StageCompleted: train")]
        assert "in 2m" in completed

    def test_percent_is_not_that_of_the_next_stage(self) -> None:
        cluster = FineTuning().at("train")
        cluster.run("train", percent=90).step()
        cluster.exit("train", 0).complete_job("train").step()
        assert "progress" not in cluster.status
