"""What stages report: read as contracts, lost with its pod, too large, or of another version."""

import pytest

from support.finetuning import FineTuning, stages_of
from support.podstatus import termination
from support.reports import CHAIN, DATASET, DIGESTS, FIT, PREPARED, PUBLISHED
from tuneyard_api.kinds.finetunejob_status import FineTuneJobStatus
from tuneyard_api.names import EXIT_BAD_INPUT, Stage
from tuneyard_operator.finetunejob.policies import LOST_WITH_POD, RERUNS
from tuneyard_operator.machinery.objects import Json


def reruns(cluster: FineTuning, stage: Stage) -> list[float]:
    """Loses the result until the run has failed; the seconds before each rerun."""
    delays = []
    for _ in range(RERUNS):
        cluster.complete_job(stage)
        waited = 0.0
        while not (step := cluster.step()).delete:
            assert step.create == []
            assert step.requeue_after is not None
            cluster.wait(step.requeue_after)
            waited += step.requeue_after
        delays.append(waited)
        cluster.step()
    return delays


@pytest.mark.lifecycle("reason-lost-on-cpu")
@pytest.mark.parametrize("stage", ["prepare", "publish"])
class TestLostResult:
    def test_stage_runs_again(self, stage: Stage) -> None:
        cluster = FineTuning().at(stage)
        cluster.complete_job(stage)
        assert stages_of(cluster.step().delete) == [stage]
        assert cluster.stage(stage)["state"] == "Pending"
        assert cluster.stage(stage)["message"] == f"Recreating the Job: its result is lost, {LOST_WITH_POD}"
        assert cluster.stage(stage)["reruns"] == 1
        FineTuneJobStatus.model_validate(cluster.status)
        cluster.step()
        assert stages_of(cluster.jobs)[-1] == stage
        cluster.complete(stage, PREPARED if stage == "prepare" else PUBLISHED).step()
        assert cluster.stage(stage)["state"] == "Succeeded"

    def test_reruns_are_delayed_and_bounded(self, stage: Stage) -> None:
        cluster = FineTuning().at(stage)
        assert reruns(cluster, stage) == pytest.approx([0, 10, 20], abs=2)
        cluster.complete_job(stage)
        assert cluster.step().delete == []
        failed = cluster.condition("Failed")
        assert failed["reason"] == "ResultLost"
        assert f"{stage} has succeeded {RERUNS + 1} times" in failed["message"]
        assert cluster.stage(stage)["state"] == "Failed"
        assert cluster.condition("DatasetReady" if stage == "prepare" else "Published")["status"] == "False"


def test_reruns_are_counted_although_the_status_is_lost() -> None:
    cluster = FineTuning().at("prepare")
    reruns(cluster, "prepare")
    cluster.job.pop("status")
    cluster.complete_job("prepare")
    cluster.step()
    assert cluster.condition("Failed")["reason"] == "ResultLost"


def test_lost_reasons_are_bounded_too() -> None:
    cluster = FineTuning().at("export")
    for _ in range(RERUNS):
        cluster.fail_job("export").wait(3600)
        assert cluster.step().delete
        cluster.step()
    cluster.fail_job("export").step()
    assert cluster.condition("Failed")["reason"] == "ReasonLost"


@pytest.mark.parametrize(
    ("stage", "result"),
    [
        ("prepare", {"digest": "old"}),
        ("prepare", None),
        ("prepare", PREPARED | {"digests": {"prepare": "0" * 64}}),
        ("evaluate", {"perplexity": {"base": 3.0}}),
        ("publish", None),
        ("publish", PUBLISHED | {"recommended": {"format": "gptq", "reason": "smallest"}}),
        ("publish", PUBLISHED | {"artifacts": [{"format": "bf16"}]}),
    ],
)
def test_result_of_another_version_fails_the_run(stage: Stage, result: Json | None) -> None:
    cluster = FineTuning().at(stage)
    cluster.complete(stage, result).step()
    failed = cluster.condition("Failed")
    assert failed["reason"] == "StageCrashed"
    assert f"The result of {stage} cannot be read: " in failed["message"]
    assert failed["message"].endswith(
        "Are the images of operator and trainer of the same version? "
        "Then apply the changed spec, or without a change: kubectl tuneyard retry x -n team"
    )
    assert cluster.stage(stage)["state"] == "Failed"
    assert cluster.dry_run().delete == []


@pytest.mark.parametrize("stage", CHAIN)
def test_too_large_result_fails_the_run(stage: Stage) -> None:
    cluster = FineTuning().at(stage)
    cluster.run(stage).exit(stage, 0, termination("ResultTooLarge", "Too many bytes", "Use fewer gates."))
    cluster.complete_job(stage).step()
    assert cluster.condition("Failed")["reason"] == "ResultTooLarge"
    assert cluster.condition("Failed")["message"] == (
        "Too many bytes. Use fewer gates. Change the spec and apply it again."
    )


def test_reused_evaluation_reports_nothing() -> None:
    cluster = FineTuning().at("evaluate")
    cluster.complete("evaluate", None, reason="Adopted").step()
    assert cluster.condition("Evaluated")["reason"] == "Adopted"
    assert "evaluation" not in cluster.status


def test_unreadable_gates_leave_the_reason_of_the_failure() -> None:
    cluster = FineTuning().at("evaluate")
    cluster.run("evaluate").exit("evaluate", EXIT_BAD_INPUT, termination("GateFailed", "9 > 7", result={"x": 1}))
    cluster.fail_job("evaluate").step()
    assert cluster.condition("Failed")["reason"] == "GateFailed"


def test_the_fit_of_the_training() -> None:
    cluster = FineTuning()
    cluster.step()
    cluster.complete("prepare", PREPARED | {"fit": FIT}).step()
    assert cluster.status["fit"] == FIT
    told = [event for event in cluster.events if event.startswith("Unfit")]
    assert told == ["Unfit: 30.5 of 22.5 GiB (NVIDIA-L4): DoesNotFit. Set training.microBatchSize: 1 (12.0 GiB)."]
    cluster.step()
    assert cluster.status["fit"] == FIT, "it stays while the job goes on"


def test_uris_follow_from_the_digests() -> None:
    cluster = FineTuning().at("publish")
    cluster.finish("publish")
    status = cluster.status
    assert status["dataset"]["reportURI"] == f"s3://out/runs/{DIGESTS['prepare']}/prepare/report.html"
    assert status["evaluation"]["reportURI"] == f"s3://out/runs/{DIGESTS['evaluate']}/evaluate/report.html"
    assert status["artifacts"][0]["uri"] == f"s3://out/runs/{DIGESTS['export']}/export/bf16"
    assert status["recommended"]["uri"] == status["artifacts"][0]["uri"]
    assert status["progress"] == {"percent": 100, "loss": 1.2346}
    assert status["training"]["keptStep"] == 35, "publish tells it where an earlier run has trained"


def test_the_course_of_the_training_is_shown() -> None:
    cluster = FineTuning().at("train")
    course = [{"step": 0, "validationLoss": 3.5}, {"step": 20, "loss": 2.5, "validationLoss": 1.5}]
    training = {"steps": 20, "keptStep": 20, "stoppedEarly": True, "loss": 1.25, "verdict": "Fine.", "curve": course}
    cluster.complete("train", {"training": training}).step()
    shown = training | {"rungs": [], "spikes": []}
    assert cluster.status["training"] == shown
    cluster.finish("export", "evaluate", "publish")
    assert cluster.status["training"] == shown, "publish does not take the curve away"


@pytest.mark.parametrize(("trained", "warned"), [(7, True), (9, False)])
def test_answers_that_are_left_out_are_an_event(trained: int, warned: bool) -> None:
    cluster = FineTuning()
    cluster.step()
    answers = {"given": 9, "trained": trained, "leftOut": {"notShown": 9 - trained}}
    cluster.complete("prepare", PREPARED | {"dataset": DATASET | {"answers": answers}})
    events = [item for item in cluster.step().events if item.reason == "AnswersNotTrained"]
    assert cluster.status["dataset"]["answers"]["trained"] == trained
    assert [item.message.startswith("7 of 9 answers trained (left out: 2 notShown); see s3://") for item in events] == (
        [True] if warned else []
    )


def test_deleted_export_is_made_again_by_a_rerun() -> None:
    """What the messages about a damaged artifact advise: its directory is deleted, and spec.rerun changes."""
    cluster = FineTuning()
    for _ in range(20):
        cluster.step()
        cluster.controllers_run()
    assert cluster.status["phase"] == "Succeeded"
    cluster.store.discard(cluster.digests()["export"])
    cluster.change(rerun="again").step()
    states: dict[str, set[str]] = {}
    for _ in range(20):
        cluster.step()
        for stage in cluster.status["stages"]:
            states.setdefault(stage["name"], set()).add(stage["state"])
        cluster.controllers_run()
    assert cluster.status["phase"] == "Succeeded"
    assert "Adopted" in states["train"] and "Running" not in states["train"]
    assert "Adopted" not in states["export"] and "Succeeded" in states["export"]
