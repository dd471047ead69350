"""A ModelServer of a small model under requests of every kind, with speculative decoding, and while its pod goes.

The tests of this module run in order, and the last one deletes the pod.
"""

import json
import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice

import httpx
import pytest

from demo.kubectl import Json, apply, condition, get, items, kubectl, port_forward, wait_until
from demo.objectstore import ObjectStore
from e2e.conftest import NamespaceFactory
from e2e.jobs import model_server, wait_for_server
from engines.options import alone, mixes
from tuneyard_api.names import METRICS_PORT
from tuneyard_store.artifact import read_manifest

NAMESPACE, SERVER = "e2e-serving", "bot"
MODEL_URI = "s3://models/small"
STREAM_SECONDS = 60.0
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def namespace(new_namespace: NamespaceFactory) -> str:
    return new_namespace(NAMESPACE)


@pytest.fixture(scope="module")
def model(store: ObjectStore) -> Json:
    with store.reached_from_here() as s3:
        digest = read_manifest(s3, MODEL_URI).digest
    return {"uri": MODEL_URI, "digest": digest, "secretRef": {"name": "s3-credentials"}}


@pytest.fixture(scope="module")
def served(namespace: str, model: Json) -> None:
    vllm = {"maxModelLen": 4096, "maxNumSeqs": 16, "toolCallParser": "hermes", "speculative": {"method": "ngram"}}
    apply(model_server(SERVER, namespace, model, vllm=vllm))
    wait_for_server(SERVER, namespace)


@pytest.fixture
def client(served: None, namespace: str) -> Iterator[httpx.Client]:
    with (
        port_forward(f"svc/{SERVER}", 80, namespace) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client,
    ):
        yield client


def pods(namespace: str) -> list[Json]:
    return items("pods", namespace, f"tuneyard.dev/modelserver={SERVER}")


def restarts(namespace: str) -> dict[str, int]:
    return {
        f"{pod['metadata']['name']}/{status['name']}": status["restartCount"]
        for pod in pods(namespace)
        for status in pod["status"]["containerStatuses"]
    }


def post(client: httpx.Client, path: str, body: Json) -> httpx.Response:
    """Escaped, as some bodies hold half a character."""
    return client.post(path, content=json.dumps(body), headers=JSON)


def test_no_request_restarts_a_container(client: httpx.Client, namespace: str) -> None:
    """A part of what tests/engines sends; `make requests` sends 2,000."""
    before = restarts(namespace)
    requests = [*islice(alone(), 0, None, 6), *mixes(60, seed=3)]
    statuses = Counter(post(client, path, body).status_code for path, body in requests)
    assert restarts(namespace) == before
    assert statuses[200] > 40, statuses
    assert not [status for status in statuses if status >= 500 and status != 501], statuses


def test_guesses_of_speculative_decoding_are_counted(served: None, client: httpx.Client, namespace: str) -> None:
    repeating = {"model": SERVER, "prompt": "a b c d " * 20, "max_tokens": 64, "temperature": 0}
    assert client.post("/v1/completions", json=repeating).status_code == 200
    (pod,) = pods(namespace)
    with port_forward(f"pod/{pod['metadata']['name']}", METRICS_PORT, namespace) as port:
        metrics = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    lines = [line for line in metrics.splitlines() if line.startswith("vllm:spec_decode_num_accepted_tokens_total{")]
    assert lines
    assert float(lines[0].split()[-1]) > 0


def test_wrong_option_is_named_in_the_condition(namespace: str, model: Json) -> None:
    apply(model_server("wrong", namespace, model, vllm={"extraArgs": {"no-such-flag": "1"}}))

    def is_degraded() -> bool:
        return condition(get("modelserver", "wrong", namespace), "Degraded").get("status") == "True"

    wait_until(is_degraded, "the wrong option is told", 240)
    found = condition(get("modelserver", "wrong", namespace), "Degraded")
    kubectl("delete", "modelserver", "wrong", "-n", namespace)
    assert found["reason"] == "InvalidSpec"
    assert "--no-such-flag" in found["message"]


def test_stream_survives_the_deletion_of_its_pod(client: httpx.Client, namespace: str) -> None:
    """Eight answers at once are slow enough to last; a stream that ends by itself before a minute is whole, too."""
    (pod,) = pods(namespace)
    body = {"model": SERVER, "prompt": "once", "max_tokens": 4000, "n": 8, "ignore_eos": True, "stream": True}
    received, is_done = 0, False
    with client.stream("POST", "/v1/completions", content=json.dumps(body), headers=JSON) as answer:
        assert answer.status_code == 200
        lines = answer.iter_lines()
        next(lines)
        kubectl("delete", "pod", pod["metadata"]["name"], "-n", namespace, "--wait=false")
        deleted = time.monotonic()
        for line in lines:
            received += line.startswith("data: {")
            is_done = is_done or line == "data: [DONE]"
            if time.monotonic() - deleted > STREAM_SECONDS:
                break
    assert received > 100
    assert is_done or time.monotonic() - deleted > STREAM_SECONDS, f"cut after {time.monotonic() - deleted:.0f} s"
