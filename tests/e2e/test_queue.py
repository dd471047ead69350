"""A queue with room for one training: one waits, one is preempted and goes on, and nothing trains twice."""

from collections.abc import Iterator
from datetime import datetime
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
TRAINING = small_training(100)


class Seen(NamedTuple):
    """What the test saw on the way, and `first` at its end."""

    preempted: Json  # `first`, while the urgent Job had the quota
    described: str  # `second`, while it waited
    first: Json
    second: Json  # once it trained
    log: str  # of the training that went on


@pytest.fixture(scope="module")
def kueue(images: dict[str, str]) -> Iterator[None]:
    with kueue_for(NAMESPACE, images["kueue"], CPU["requests"]):
        yield


@pytest.fixture(scope="module")
def seen(kueue: None, new_namespace: NamespaceFactory, images: dict[str, str]) -> Seen:
    """`first` trains and is preempted by a Job of another kind; `second` comes meanwhile and waits for both."""
    apply(local_queue(new_namespace(NAMESPACE)))
    apply(fine_tune_job("first", NAMESPACE, training=TRAINING, queueName=QUEUE))
    wait_until(lambda: last_step(training_log("first", NAMESPACE)) >= 5, "first has reached step 5", 120, every=0.5)

    apply(urgent_job(images["trainer"]))
    apply(fine_tune_job("second", NAMESPACE, queueName=QUEUE))
    for name in ("first", "second"):
        wait_until(lambda name=name: training(name).get("message") == WAITS, f"{name} waits", 120)  # type: ignore[misc]
    preempted = get("finetunejob", "first", NAMESPACE)
    described = kubectl("describe", "ftj", "second", "-n", NAMESPACE)

    kubectl("delete", "job", "urgent", "-n", NAMESPACE)
    wait_until(lambda: training("first")["state"] == "Succeeded", "first has trained", 180)
    log = training_log("first", NAMESPACE)
    wait_until(lambda: training("second")["state"] in ("Running", "Succeeded"), "second is admitted", 60)
    second = get("finetunejob", "second", NAMESPACE)
    return Seen(preempted, described, wait_for_job("first", NAMESPACE), second, log)


def training(name: str) -> Json:
    return stage(get("finetunejob", name, NAMESPACE), "train")


def urgent_job(image: str) -> Json:
    """Sleeps in all of the quota until it is deleted."""
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


def test_a_preempted_training_waits_again_and_is_not_charged(seen: Seen) -> None:
    assert stage(seen.preempted, "train")["state"] == "Pending"
    assert seen.preempted["status"]["restarts"] == {"preempted": 1, "failed": 0}
    assert seen.preempted["status"]["phase"] == "Training"


def test_it_goes_on_from_the_checkpoint_of_its_last_moment(seen: Seen) -> None:
    """There is no other: the first one that is due on time is minutes away."""
    assert resumed_from(seen.log) >= 5
    assert seen.first["status"]["restarts"] == {"preempted": 1, "failed": 0}


def test_a_job_that_waits_says_for_which_queue(seen: Seen) -> None:
    assert WAITS in seen.described


def test_one_training_began_when_the_other_had_ended(seen: Seen) -> None:
    ended, began = stage(seen.first, "train")["finishedAt"], stage(seen.second, "train")["startedAt"]
    assert datetime.fromisoformat(began) >= datetime.fromisoformat(ended)


def test_no_stage_ran_twice(seen: Seen) -> None:
    jobs = items("jobs", NAMESPACE, "tuneyard.dev/finetunejob=first")
    stages = [job["metadata"]["labels"]["tuneyard.dev/stage"] for job in jobs]
    assert sorted(stages) == ["evaluate", "export", "prepare", "publish", "train"]
    assert all(job["status"].get("succeeded") == 1 for job in jobs)
    assert not any(job["status"].get("failed") for job in jobs)
