"""A queue with quota for one training: one job waits, one is preempted and resumes, and no stage runs twice."""

from collections.abc import Iterator
from datetime import datetime
from functools import partial
from typing import NamedTuple

import pytest

from demo.kubectl import Json, apply, get, items, kubectl, wait_until
from demo.objectstore import RESTRICTED
from e2e.conftest import NamespaceFactory
from e2e.jobs import CPU, fine_tune_job, last_step, resumed_from, small_training, stage, training_log, wait_for_job
from e2e.kueue import kueue_for
from support.kueuemanifests import QUEUE, URGENT, local_queue
from tuneyard_api.names import LABEL_QUEUE

NAMESPACE = "e2e-queue"
WAITS = f"waits in queue {QUEUE} until Kueue admits it"
TRAINING = small_training(160)


class Observed(NamedTuple):
    """The two jobs while they waited and trained, and `first` when it was finished."""

    preempted: Json  # `first`, while the urgent Job had the quota
    described: str  # `second`, while it waited
    first: Json
    second: Json  # once it trained
    log: str  # of the resumed training


@pytest.fixture(scope="module")
def kueue(images: dict[str, str]) -> Iterator[None]:
    with kueue_for(NAMESPACE, images["kueue"], CPU["requests"]):
        yield


@pytest.fixture(scope="module")
def observed(kueue: None, new_namespace: NamespaceFactory, images: dict[str, str]) -> Observed:
    """Preempts the training of `first` by an urgent Job; `second` is created meanwhile and waits for both."""
    apply(local_queue(new_namespace(NAMESPACE)))
    apply(fine_tune_job("first", NAMESPACE, training=TRAINING, queueName=QUEUE))
    wait_until(lambda: last_step(training_log("first", NAMESPACE)) >= 5, "first has reached step 5", 300, every=0.5)

    apply(urgent_job(images["trainer"]))
    apply(fine_tune_job("second", NAMESPACE, queueName=QUEUE))
    for name in ("first", "second"):
        wait_until(partial(waits, name), f"{name} waits", 120)
    preempted = get("finetunejob", "first", NAMESPACE)
    described = kubectl("describe", "ftj", "second", "-n", NAMESPACE)

    kubectl("delete", "job", "urgent", "-n", NAMESPACE)
    wait_until(lambda: training("first")["state"] == "Succeeded", "first has trained", 600)
    log = training_log("first", NAMESPACE)
    wait_until(lambda: training("second")["state"] in ("Running", "Succeeded"), "second is admitted", 60)
    second = get("finetunejob", "second", NAMESPACE)
    return Observed(preempted, described, wait_for_job("first", NAMESPACE), second, log)


def training(name: str) -> Json:
    return stage(get("finetunejob", name, NAMESPACE), "train")


def waits(name: str) -> bool:
    return WAITS in training(name).get("message", "")


def urgent_job(image: str) -> Json:
    """A Job that uses all of the quota until it is deleted."""
    security = {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}}
    container = {
        "name": "sleep",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sleep", "600"],
        "resources": {"requests": CPU["requests"]},
        "securityContext": RESTRICTED,
    }
    pod = {
        "priorityClassName": URGENT,
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 0,
        "automountServiceAccountToken": False,
        "securityContext": security,
        "containers": [container],
    }
    metadata = {"name": "urgent", "namespace": NAMESPACE, "labels": {LABEL_QUEUE: QUEUE}}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": {"template": {"spec": pod}}}


def test_preempted_training_waits_uncharged(observed: Observed) -> None:
    assert stage(observed.preempted, "train")["state"] == "Pending"
    assert observed.preempted["status"]["restarts"] == {"preempted": 1, "failed": 0}
    assert observed.preempted["status"]["phase"] == "Training"


def test_resumes_from_the_checkpoint_at_preemption(observed: Observed) -> None:
    """No other checkpoint exists: the first periodic one would be minutes later."""
    assert resumed_from(observed.log) >= 5
    assert observed.first["status"]["restarts"] == {"preempted": 1, "failed": 0}


def test_describe_names_the_queue(observed: Observed) -> None:
    assert WAITS in observed.described


def test_trainings_do_not_overlap(observed: Observed) -> None:
    finished, started = stage(observed.first, "train")["finishedAt"], stage(observed.second, "train")["startedAt"]
    assert datetime.fromisoformat(started) >= datetime.fromisoformat(finished)


def test_each_stage_runs_once(observed: Observed) -> None:
    def jobs() -> list[Json]:
        return items("jobs", NAMESPACE, "tuneyard.dev/finetunejob=first")

    # The Job controller counts a pod a second or two after it has ended, when the next stage runs already.
    wait_until(lambda: all("completionTime" in job["status"] for job in jobs()), "the Jobs are complete", 30)
    found = jobs()
    stages = [job["metadata"]["labels"]["tuneyard.dev/stage"] for job in found]
    assert sorted(stages) == ["evaluate", "export", "prepare", "publish", "train"]
    assert all(job["status"].get("succeeded") == 1 for job in found)
    assert not any(job["status"].get("failed") for job in found)
