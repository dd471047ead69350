"""A commit while a job trains: the run is stopped with a checkpoint, and the new one takes over what is the same."""

from typing import NamedTuple

import pytest

from demo.kubectl import Json, apply, get, items, wait_until
from e2e.conftest import NamespaceFactory
from e2e.jobs import CPU, fine_tune_job, last_step, resumed_from, small_training, stage_pods, training_log, wait_for_job

NAMESPACE, JOB = "e2e-replace", "replaced"
TRAINING = small_training(120)
# No digest covers the resources, so training resumes.
COMMIT: Json = {"onSpecChange": "Replace", "resources": CPU | {"limits": {"cpu": "2", "memory": "5Gi"}}}


class Observed(NamedTuple):
    """The revisions before and after the commit, the job at its end, and the log of the resumed training."""

    before: str
    ended: Json
    log: str


def committed(**parts: object) -> None:
    """As a GitOps tool applies it: the whole object."""
    apply(fine_tune_job(JOB, NAMESPACE, training=TRAINING, **parts))


@pytest.fixture(scope="module")
def observed(new_namespace: NamespaceFactory) -> Observed:
    new_namespace(NAMESPACE)
    committed()
    wait_until(lambda: last_step(training_log(JOB, NAMESPACE)) >= 5, "training has reached step 5", 300, every=0.5)
    before = get("finetunejob", JOB, NAMESPACE)["status"]["revision"]
    committed(**COMMIT)
    wait_until(lambda: get("finetunejob", JOB, NAMESPACE)["status"]["revision"] != before, "the new run is known", 60)
    return Observed(before, wait_for_job(JOB, NAMESPACE), training_log(JOB, NAMESPACE))


@pytest.mark.lifecycle("replaced-while-running")
def test_new_run_resumes_from_the_checkpoint(observed: Observed) -> None:
    assert resumed_from(observed.log) >= 5
    assert observed.ended["status"]["restarts"].get("failed", 0) == 0
    told = [event for event in items("events", NAMESPACE) if event["reason"] == "Replaced"]
    assert [event["message"].startswith("train: the spec has changed") for event in told] == [True]


@pytest.mark.lifecycle("rerun")
def test_rerun_with_the_same_data_trains_nothing(observed: Observed) -> None:
    last = observed.ended["status"]["revision"]
    committed(**COMMIT, rerun="again")
    wait_until(lambda: get("finetunejob", JOB, NAMESPACE)["status"]["revision"] != last, "the new run is known", 60)
    again = wait_for_job(JOB, NAMESPACE, seconds=120)
    assert again["status"]["artifacts"] == observed.ended["status"]["artifacts"]
    states = {stage["name"]: stage["state"] for stage in again["status"]["stages"]}
    assert {states[name] for name in ("train", "export", "evaluate")} == {"Adopted"}
    assert not stage_pods(JOB, NAMESPACE, "train")
