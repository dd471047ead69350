"""The status of a FineTuneJob while a stage waits or runs."""

import math
from collections.abc import Callable

import pytest

from support.builders import SETTINGS
from support.finetuning import FineTuning
from support.kubelet import Kubelet
from support.podstatus import termination
from tuneyard_api.contracts.progress import ProgressReport
from tuneyard_api.kinds.finetunejob_status import FineTuneJobStatus, Progress, StageStatus
from tuneyard_operator.finetunejob.progress import progress_status
from tuneyard_operator.machinery.objects import Json

BEFORE = FineTuneJobStatus(stages=[StageStatus(name="train", state="Running")], progress=Progress(percent=40))
NO_GPU = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."


class TestWaiting:
    @pytest.mark.parametrize(
        ("hindrance", "message"),
        [
            (lambda kubelet, pod: kubelet.leave_unscheduled(pod, NO_GPU), "Insufficient nvidia.com/gpu"),
            (
                lambda kubelet, pod: kubelet.keep_waiting(pod, "ImagePullBackOff", "no such image"),
                "ImagePullBackOff: no such",
            ),
            (lambda kubelet, pod: kubelet.keep_waiting(pod, "CreateContainerConfigError", "no config"), "no config"),
        ],
    )
    def test_pod_that_cannot_start(self, hindrance: Callable[[Kubelet, Json], Json], message: str) -> None:
        cluster = FineTuning().prepared()
        hindrance(cluster.kubelet, cluster.create_pod("train"))
        cluster.step()
        assert message in cluster.stage("train")["message"]
        assert message in cluster.condition("Trained")["message"]
        assert message in cluster.condition("Succeeded")["message"]
        assert cluster.stage("train")["state"] == "Pending"
        assert any("StageWaiting" in event and message in event for event in cluster.events)
        assert cluster.dry_run().requeue_after is None, "the pod's next change enqueues"

    def test_starting_pod_has_no_message(self) -> None:
        cluster = FineTuning().prepared()
        cluster.kubelet.keep_waiting(cluster.create_pod("train"), "ContainerCreating")
        cluster.step()
        assert "message" not in cluster.stage("train")

    def test_job_without_a_pod_has_its_warning(self) -> None:
        cluster = FineTuning().prepared()
        cluster.warn(cluster.job_of("train"), "FailedCreate", 'pods "x" is forbidden: exceeded quota')
        cluster.wait(10)
        plan = cluster.step()
        assert "exceeded quota" in cluster.stage("train")["message"]
        assert plan.requeue_after, "there is no event when the quota is raised"


class TestProgress:
    def test_is_shown_while_a_stage_runs(self) -> None:
        cluster = FineTuning().prepared()
        cluster.run("train", percent=40, step=4, steps=10, loss=1.23456, etaSeconds=250, tokensPerSecond=812.34)
        plan = cluster.step()
        assert cluster.status["progress"] == {
            "percent": 40,
            "step": 4,
            "steps": 10,
            "loss": 1.2346,
            "eta": "4m10s",
            "tokensPerSecond": 812.3,
        }
        assert plan.requeue_after == SETTINGS.poll

    def test_is_not_shown_for_the_next_stage(self) -> None:
        cluster = FineTuning().prepared().run("train", percent=90, loss=1.0)
        cluster.step()
        cluster.exit("train", 0, termination("Completed")).complete_job("train")
        cluster.step()
        cluster.run("export")
        cluster.step()
        assert "progress" not in cluster.status

    @pytest.mark.parametrize(
        ("percent", "since", "shown"),
        [(41, 1, 40), (44, 14.9, 40), (45, 1, 45), (35, 1, 35), (41, 15, 41), (40, math.inf, 40)],
    )
    def test_is_written_every_5_percent_or_15_seconds(self, percent: int, since: float, shown: int) -> None:
        status = progress_status(ProgressReport(stage="train", percent=percent), "train", BEFORE, since)
        assert status == Progress(percent=shown)

    def test_stays_while_the_stage_does_not_answer(self) -> None:
        assert progress_status(None, "train", BEFORE, 100) == Progress(percent=40)
