"""A job is suspended while it trains, resumes from its checkpoint, and is deleted when its TTL has expired."""

import json
from typing import NamedTuple

import pytest

from demo.kubectl import Json, apply, get, is_condition_true, items, kubectl, wait_until
from e2e.conftest import NamespaceFactory
from e2e.jobs import fine_tune_job, last_step, resumed_from, small_training, stage_pods, training_log, wait_for_job

NAMESPACE, JOB = "e2e-suspend", "paused"
TRAINING = small_training(120)


class Observed(NamedTuple):
    """The job while it was suspended and when it was finished, and the log of the resumed training."""

    suspended: Json
    ended: Json
    log: str


@pytest.fixture(scope="module")
def observed(new_namespace: NamespaceFactory) -> Observed:
    apply(fine_tune_job(JOB, new_namespace(NAMESPACE), training=TRAINING))
    wait_until(lambda: last_step(training_log(JOB, NAMESPACE)) >= 5, "training has reached step 5", 300, every=0.5)

    patch_spec(suspend=True)
    wait_until(lambda: not stage_pods(JOB, NAMESPACE, "train"), "the training pod is deleted", 180)
    kubectl("wait", "--for=condition=Suspended", f"ftj/{JOB}", "-n", NAMESPACE, "--timeout=30s")
    suspended = get("finetunejob", JOB, NAMESPACE)

    patch_spec(suspend=False)
    ended = wait_for_job(JOB, NAMESPACE)
    return Observed(suspended, ended, training_log(JOB, NAMESPACE))


def patch_spec(**spec: object) -> None:
    kubectl("patch", "ftj", JOB, "-n", NAMESPACE, "--type=merge", "-p", json.dumps({"spec": spec}))


def test_status_while_suspended(observed: Observed) -> None:
    assert observed.suspended["status"]["phase"] == "Suspended"
    states = {stage["name"]: stage["state"] for stage in observed.suspended["status"]["stages"]}
    assert states.pop("prepare") == "Succeeded"
    assert set(states.values()) == {"Pending"}
    (condition,) = [item for item in observed.suspended["status"]["conditions"] if item["type"] == "Suspended"]
    assert "spec.suspend" in condition["message"]


@pytest.mark.lifecycle("resumed")
def test_resumes_from_the_checkpoint_uncharged(observed: Observed) -> None:
    assert resumed_from(observed.log) >= 5
    assert observed.ended["status"]["restarts"].get("failed", 0) == 0
    assert not is_condition_true(observed.ended, "Suspended")


def test_prepare_runs_once(observed: Observed) -> None:
    assert len(stage_pods(JOB, NAMESPACE, "prepare")) == 1


@pytest.mark.lifecycle("lifetime-over")
def test_ttl_deletes_the_job_and_keeps_artifacts(observed: Observed) -> None:
    patch_spec(ttlSecondsAfterFinished=0)
    kubectl("wait", "--for=delete", f"ftj/{JOB}", "-n", NAMESPACE, "--timeout=60s")
    wait_until(lambda: not items("jobs", NAMESPACE), "its Jobs are deleted", 60)
    apply(fine_tune_job(JOB, NAMESPACE, training=TRAINING))
    reapplied = wait_for_job(JOB, NAMESPACE, seconds=60)
    assert reapplied["status"]["artifacts"] == observed.ended["status"]["artifacts"]
