"""Two pods train one model together; one of them is deleted in mid-run, and both go on from the checkpoint."""

from typing import NamedTuple

import pytest

from demo.kubectl import Json, apply, get, items, kubectl, wait_until
from demo.objectstore import ObjectStore
from e2e.conftest import NamespaceFactory
from e2e.jobs import (
    CPU,
    fine_tune_job,
    last_step,
    resumed_from,
    small_training,
    stage,
    stage_digest,
    stage_pods,
    training_log,
    wait_for_job,
)
from tuneyard_api.names import ANNOTATION_INDEX

NAMESPACE, JOB = "e2e-nodes", "pair"
RESOURCES: Json = CPU | {"nodes": 2, "limits": {"cpu": "1", "memory": "4Gi"}}


class Seen(NamedTuple):
    """The pods in mid-run, the job at its end, and the log of the training that went on."""

    together: list[Json]
    ended: Json
    log: str


@pytest.fixture(scope="module")
def seen(new_namespace: NamespaceFactory) -> Seen:
    apply(fine_tune_job(JOB, new_namespace(NAMESPACE), training=small_training(60), resources=RESOURCES))
    wait_until(lambda: last_step(training_log(JOB, NAMESPACE)) >= 5, "it has reached step 5", 180, every=0.5)
    together = stage_pods(JOB, NAMESPACE, "train")
    (second,) = [pod for pod in together if pod["metadata"]["annotations"][ANNOTATION_INDEX] == "1"]
    kubectl("delete", "pod", second["metadata"]["name"], "-n", NAMESPACE, "--wait=false")
    return Seen(together, wait_for_job(JOB, NAMESPACE), training_log(JOB, NAMESPACE))


def test_both_pods_ran_at_the_same_time(seen: Seen) -> None:
    assert sorted(pod["metadata"]["annotations"][ANNOTATION_INDEX] for pod in seen.together) == ["0", "1"]
    assert {pod["status"]["phase"] for pod in seen.together} == {"Running"}


@pytest.mark.lifecycle("node-stopped")
def test_both_go_on_from_the_checkpoint_and_nobody_is_charged(seen: Seen) -> None:
    assert resumed_from(seen.log) >= 5
    assert seen.ended["status"]["restarts"] == {"preempted": 1, "failed": 0}, stage(seen.ended, "train")
    (job,) = items("jobs", NAMESPACE, f"tuneyard.dev/finetunejob={JOB},tuneyard.dev/stage=train")
    assert job["status"]["succeeded"] == 2
    assert not job["status"].get("failed")


def test_one_adapter_was_published(seen: Seen, store: ObjectStore) -> None:
    with store.reached_from_here() as s3:
        root = f"{seen.ended['spec']['output']['uri']}/runs/"
        found = [each.uri.removeprefix(root) for each in s3.list(root)]
    train = f"{stage_digest(seen.ended, 'train')}/train"
    assert [uri for uri in found if uri.endswith("adapter_model.safetensors") and "/checkpoints/" not in uri] == [
        f"{train}/adapter/adapter_model.safetensors"
    ]
    assert f"{train}/stage.json" in found


def test_the_pods_find_each_other_by_name(seen: Seen) -> None:
    job = seen.together[0]["metadata"]["labels"]["job-name"]
    assert get("service", job, NAMESPACE)["spec"]["clusterIP"] == "None"
    assert {pod["spec"]["hostname"] for pod in seen.together} == {f"{job}-0", f"{job}-1"}
