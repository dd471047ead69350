"""Rollouts under load on a node with one GPU, and with two: an extended resource plays them, vLLM runs on the CPU.

TUNEYARD_ROLLOUTS=10 rolls out so many times with each number of GPUs; the tests in CI once or twice.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, Final, NamedTuple

import pytest

from demo.kubectl import Json, apply, condition, get, is_condition_true, kubectl, wait_until
from demo.objectstore import ObjectStore
from e2e.conftest import NamespaceFactory
from e2e.jobs import CPU, model_server, wait_for_server
from tuneyard_operator.pods.podspec import CONTAINER_SECURITY, POD_SECURITY
from tuneyard_store.artifact import read_manifest

NAMESPACE, SERVER, GPU = "e2e-rollout", "bot", "tuneyard.dev/gpu"
MODEL: Final = "s3://models/small"
ROLLOUTS: Final = int(os.environ.get("TUNEYARD_ROLLOUTS") or 0)
# One line for each request, every fifth of a second: the time, and the status or the error.
LOAD: Final = f"""
import time, urllib.request
while True:
    began = time.time()
    try:
        with urllib.request.urlopen("http://{SERVER}/v1/models", timeout=5) as answer:
            seen = answer.status
    except Exception as error:
        seen = getattr(error, "code", type(error).__name__)
    print(round(began, 2), seen, flush=True)
    time.sleep(0.2)
"""


class Answers(NamedTuple):
    """What the clients saw in a while."""

    requests: int
    failures: int
    seconds_down: float  # the longest time between two answers


def answers(since: float) -> Answers:
    lines = [line.split() for line in kubectl("logs", "load", "-n", NAMESPACE, timeout=60).splitlines()]
    seen = [(float(at), status) for at, status in lines if float(at) >= since]
    good = [since, *(at for at, status in seen if status == "200"), time.time()]
    longest = max(later - earlier for earlier, later in pairwise(good))
    return Answers(len(seen), sum(status != "200" for _, status in seen), round(longest, 1))


@pytest.fixture(scope="module")
def namespace(new_namespace: NamespaceFactory) -> str:
    return new_namespace(NAMESPACE)


@pytest.fixture(scope="module")
def set_gpus() -> Iterator[Callable[[int], None]]:
    """Sets how many GPUs the node has; at the end it has none."""
    node = json.loads(kubectl("get", "nodes", "-o", "json"))["items"][0]["metadata"]["name"]
    pointer = GPU.replace("/", "~1")

    def set_number(number: int) -> None:
        paths = (f"/status/{field}/{pointer}" for field in ("capacity", "allocatable"))
        operations = [{"op": "add", "path": path, "value": str(number)} for path in paths]
        kubectl("patch", "node", node, "--subresource=status", "--type=json", "-p", json.dumps(operations))

    yield set_number
    set_number(0)


@pytest.fixture(scope="module")
def model(store: ObjectStore) -> Json:
    with store.reached_from_here() as s3:
        digest = read_manifest(s3, MODEL).digest
    return {"uri": MODEL, "digest": digest, "secretRef": {"name": "s3-credentials"}}


@pytest.fixture(scope="module")
def server(namespace: str, model: Json, set_gpus: Callable[[int], None], images: dict[str, str]) -> Json:
    """A ModelServer that serves on the only GPU, and clients that ask all the time."""
    set_gpus(1)
    apply(server_of(model))
    wait_for_server(SERVER, namespace)
    apply(load_pod(images["trainer"]))
    wait_until(lambda: answers(0).requests > 5, "clients ask", 60)
    return get("modelserver", SERVER, namespace)


def server_of(model: Json, length: int = 512, **parts: Any) -> Json:
    resources = CPU | {"gpus": 1, "gpuResourceName": GPU}
    return model_server(SERVER, NAMESPACE, model, vllm={"maxModelLen": length}, resources=resources, **parts)


def load_pod(image: str) -> Json:
    container = {
        "name": "load",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-c", LOAD],
        "securityContext": CONTAINER_SECURITY,
    }
    spec = {"securityContext": POD_SECURITY, "containers": [container], "terminationGracePeriodSeconds": 0}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "load", "namespace": NAMESPACE}, "spec": spec}


def roll_out(model: Json, length: int) -> Answers:
    """Changes an option, waits until the new revision serves, and returns what the clients saw meanwhile."""
    began = time.time()
    before = get("modelserver", SERVER, NAMESPACE)["status"]["served"]["revision"]
    apply(server_of(model, length))

    def serves() -> bool:
        found = get("modelserver", SERVER, NAMESPACE)
        if found["status"]["observedGeneration"] != found["metadata"]["generation"]:
            return False
        assert not is_condition_true(found, "Degraded"), condition(found, "Degraded")
        return found["status"]["served"]["revision"] != before and is_condition_true(found, "Available")

    wait_until(serves, "the new revision serves", 400)
    time.sleep(2)
    seen = answers(began)
    print(f"rolled out in {time.time() - began:.0f} s: {seen}")
    return seen


@pytest.mark.lifecycle("room-is-made")
def test_one_gpu(server: Json, model: Json) -> None:
    for number in range(ROLLOUTS or 1):
        seen = roll_out(model, 256 + 8 * number)
        assert seen.failures, "nothing answers while the only GPU changes hands"
    assert any("MakingRoom" in line for line in events()), events()


def events() -> list[str]:
    return kubectl("get", "events", "-n", NAMESPACE, "--field-selector", f"involvedObject.name={SERVER}").splitlines()


@pytest.mark.lifecycle("room-is-made-in-vain")
def test_bad_release_on_one_gpu(server: Json, model: Json) -> None:
    began = time.time()
    serving = get("modelserver", SERVER, NAMESPACE)["status"]["served"]
    apply(server_of(model | {"digest": f"sha256:{'0' * 64}"}))
    wait_for_server(SERVER, NAMESPACE, "Degraded", 240)
    wait_for_server(SERVER, NAMESPACE, "Available", 240)
    found = get("modelserver", SERVER, NAMESPACE)
    assert found["status"]["served"] == serving
    assert condition(found, "Degraded")["reason"] == found["status"]["reason"] == "ArtifactCorrupt"
    assert "kubectl tuneyard retry bot" in condition(found, "Degraded")["message"]
    print(f"the old revision served again after {time.time() - began:.0f} s: {answers(began)}")


def test_two_gpus(server: Json, model: Json, set_gpus: Callable[[int], None]) -> None:
    """No request fails."""
    set_gpus(2)
    for number in range(ROLLOUTS or 1):  # no length comes again: a revision that drains would serve at once
        assert roll_out(model, 384 + 8 * number).failures == 0
