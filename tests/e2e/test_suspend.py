"""A job is suspended while it trains, goes on from its checkpoint, and is deleted when its time is over."""

import json
from typing import NamedTuple

import pytest

from demo.kubectl import Json, apply, get, is_condition_true, items, kubectl, wait_until
from e2e.conftest import NamespaceFactory
from e2e.jobs import fine_tune_job, last_step, resumed_from, small_training, stage_pods, training_log, wait_for_job

NAMESPACE, JOB = "e2e-suspend", "paused"
TRAINING = small_training(60)


class Seen(NamedTuple):
    """The job while it was suspended, and at its end; the log of the training that went on."""

    suspended: Json
    ended: Json
    log: str


@pytest.fixture(scope="module")
def seen(new_namespace: NamespaceFactory) -> Seen:
    apply(fine_tune_job(JOB, new_namespace(NAMESPACE), training=TRAINING))
    wait_until(lambda: last_step(training_log(JOB, NAMESPACE)) >= 5, "it has reached step 5", 180, every=0.5)

    change(suspend=True)
    wait_until(lambda: not stage_pods(JOB, NAMESPACE, "train"), "the training's pod is gone", 180)
    kubectl("wait", "--for=condition=Suspended", f"ftj/{JOB}", "-n", NAMESPACE, "--timeout=30s")
    suspended = get("finetunejob", JOB, NAMESPACE)

    change(suspend=False)
    ended = wait_for_job(JOB, NAMESPACE)
    return Seen(suspended, ended, training_log(JOB, NAMESPACE))


def change(**spec: object) -> None:
    kubectl("patch", "ftj", JOB, "-n", NAMESPACE, "--type=merge", "-p", json.dumps({"spec": spec}))


def test_a_suspended_job_holds_nothing_and_says_how_to_go_on(seen: Seen) -> None:
    assert seen.suspended["status"]["phase"] == "Suspended"
    states = {each["name"]: each["state"] for each in seen.suspended["status"]["stages"]}
    assert states.pop("prepare") == "Succeeded"
    assert set(states.values()) == {"Pending"}
    (said,) = [each for each in seen.suspended["status"]["conditions"] if each["type"] == "Suspended"]
    assert "spec.suspend" in said["message"]


@pytest.mark.lifecycle("resumed")
def test_it_goes_on_from_its_checkpoint_uncharged(seen: Seen) -> None:
    assert resumed_from(seen.log) >= 5
    assert seen.ended["status"]["restarts"].get("failed", 0) == 0
    assert not is_condition_true(seen.ended, "Suspended")


def test_what_was_done_is_not_done_again(seen: Seen) -> None:
    assert len(stage_pods(JOB, NAMESPACE, "prepare")) == 1


@pytest.mark.lifecycle("lifetime-over")
def test_it_is_deleted_when_its_time_is_over_and_its_artifacts_stay(seen: Seen) -> None:
    change(ttlSecondsAfterFinished=0)
    kubectl("wait", "--for=delete", f"ftj/{JOB}", "-n", NAMESPACE, "--timeout=60s")
    wait_until(lambda: not items("jobs", NAMESPACE), "its Jobs go with it", 60)
    apply(fine_tune_job(JOB, NAMESPACE, training=TRAINING))
    again = wait_for_job(JOB, NAMESPACE, seconds=60)
    assert again["status"]["artifacts"] == seen.ended["status"]["artifacts"]
