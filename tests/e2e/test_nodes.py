"""Two pods train one model together; one of them is deleted during training, and both resume from the checkpoint."""

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


class Observed(NamedTuple):
    """The pods during training, the finished job, and the log of the resumed training."""

    together: list[Json]
    ended: Json
    log: str


@pytest.fixture(scope="module")
def observed(new_namespace: NamespaceFactory) -> Observed:
    apply(fine_tune_job(JOB, new_namespace(NAMESPACE), training=small_training(120), resources=RESOURCES))
    wait_until(lambda: last_step(training_log(JOB, NAMESPACE)) >= 5, "training has reached step 5", 300, every=0.5)
    together = stage_pods(JOB, NAMESPACE, "train")
    (second,) = [pod for pod in together if pod["metadata"]["annotations"][ANNOTATION_INDEX] == "1"]
    kubectl("delete", "pod", second["metadata"]["name"], "-n", NAMESPACE, "--wait=false")
    return Observed(together, wait_for_job(JOB, NAMESPACE), training_log(JOB, NAMESPACE))


def test_pods_run_at_the_same_time(observed: Observed) -> None:
    assert sorted(pod["metadata"]["annotations"][ANNOTATION_INDEX] for pod in observed.together) == ["0", "1"]
    assert {pod["status"]["phase"] for pod in observed.together} == {"Running"}


@pytest.mark.lifecycle("node-stopped")
def test_deleted_pod_resumes_both_uncharged(observed: Observed) -> None:
    assert resumed_from(observed.log) >= 5
    assert observed.ended["status"]["restarts"] == {"preempted": 1, "failed": 0}, stage(observed.ended, "train")
    (job,) = items("jobs", NAMESPACE, f"tuneyard.dev/finetunejob={JOB},tuneyard.dev/stage=train")
    assert job["status"]["succeeded"] == 2
    assert not job["status"].get("failed")


def test_one_adapter_is_published(observed: Observed, store: ObjectStore) -> None:
    with store.reached_from_here() as s3:
        root = f"{observed.ended['spec']['output']['uri']}/runs/"
        found = [item.uri.removeprefix(root) for item in s3.list(root)]
    train = f"{stage_digest(observed.ended, 'train')}/train"
    assert [uri for uri in found if uri.endswith("adapter_model.safetensors") and "/checkpoints/" not in uri] == [
        f"{train}/adapter/adapter_model.safetensors"
    ]
    assert f"{train}/stage.json" in found


def test_headless_service_and_hostnames(observed: Observed) -> None:
    job = observed.together[0]["metadata"]["labels"]["job-name"]
    assert get("service", job, NAMESPACE)["spec"]["clusterIP"] == "None"
    assert {pod["spec"]["hostname"] for pod in observed.together} == {f"{job}-0", f"{job}-1"}
