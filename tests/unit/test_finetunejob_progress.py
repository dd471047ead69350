"""What a FineTuneJob says while a stage waits or runs."""

import math

import pytest

from support.operatorbuilders import SETTINGS, Cluster, termination
from tuneyard_api.contracts.progress import ProgressReport
from tuneyard_api.kinds.finetunejob_status import FineTuneJobStatus, Progress, StageStatus
from tuneyard_operator.finetunejob.progress import progress_status
from tuneyard_operator.machinery.objects import Json

BEFORE = FineTuneJobStatus(stages=[StageStatus(name="train", state="Running")], progress=Progress(percent=40))
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
    def test_pod_that_cannot_start(self, state: Json | None, conditions: list[Json], says: str) -> None:
        cluster = Cluster().prepared()
        cluster.pod("train", state, phase="Pending", conditions=conditions)
        cluster.step()
        assert says in cluster.stage("train")["message"]
        assert says in cluster.condition("Trained")["message"]
        assert says in cluster.condition("Succeeded")["message"]
        assert cluster.stage("train")["state"] == "Pending"
        assert any("StageWaiting" in event and says in event for event in cluster.emitted)
        assert cluster.plan().requeue_after is None, "the pod's next change wakes us"

    def test_starting_pod_has_no_message(self) -> None:
        cluster = Cluster().prepared()
        cluster.pod("train", {"waiting": {"reason": "ContainerCreating"}}, phase="Pending")
        cluster.step()
        assert "message" not in cluster.stage("train")

    def test_job_without_a_pod_has_its_warning(self) -> None:
        cluster = Cluster().prepared()
        uid = cluster.job_of("train")["metadata"]["uid"]
        cluster.warnings = {uid: 'FailedCreate: pods "x" is forbidden: exceeded quota'}
        plan = cluster.step()
        assert "exceeded quota" in cluster.stage("train")["message"]
        assert plan.requeue_after, "no event tells us when the quota is raised"


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
        assert plan.requeue_after == SETTINGS.poll

    def test_is_not_shown_for_the_next_stage(self) -> None:
        cluster = Cluster().prepared().running("train", percent=90, loss=1.0)
        cluster.step()
        cluster.exited("train", 0, termination("Completed")).job_is("train", "Complete", succeeded=1)
        cluster.step()
        cluster.running("export")
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
