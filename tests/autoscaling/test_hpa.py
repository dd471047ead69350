"""A HorizontalPodAutoscaler scales a ModelServer by the requests that wait: 1 -> 2 -> 1. No stream is cut.

TUNEYARD_CYCLES=10 does it so many times. `make autoscaling` brings Prometheus, and builds prometheus-adapter.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from demo.kubectl import Json, KubectlError, apply, get, items, kubectl, wait_until
from demo.objectstore import ObjectStore
from e2e.conftest import (  # noqa: F401 - fixtures
    ROOT,
    NamespaceFactory,
    demo_model,
    images,
    new_namespace,
    operator,
    room,
    store,
)
from e2e.jobs import model_server, wait_for_server
from tuneyard_cluster import load
from tuneyard_cluster.settings import from_environment
from tuneyard_cluster.tools import GO_FLAGS, go_run
from tuneyard_operator.pods.podspec import CONTAINER_SECURITY, POD_SECURITY
from tuneyard_store.artifact import read_manifest

HERE: Final = Path(__file__).parent
ADAPTER: Final = "sigs.k8s.io/prometheus-adapter/cmd/adapter"
NAMESPACE, SERVER, SYSTEM = "e2e-autoscaling", "my-bot", "autoscaling"
MODEL: Final = "s3://models/smollm2-135m-instruct"
CYCLES: Final = int(os.environ.get("TUNEYARD_CYCLES") or 1)
# More than two replicas run at once, so that some wait; and as many streams as one runs without waiting.
BUSY_CLIENTS, AT_ONCE, STREAMS = 24, 6, 6
STREAM_SECONDS: Final = 60


@pytest.fixture(scope="module")
def metrics_image(images: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> str:  # noqa: F811
    """Prometheus and the adapter on a small image, in the cluster's node."""
    settings = from_environment()
    sources = [path.read_bytes() for path in sorted((HERE / "adapter").iterdir())]
    adapter = settings.bin / f"prometheus-adapter-{hashlib.sha256(b''.join(sources)).hexdigest()[:12]}"
    if not adapter.exists():
        go_run("build", *GO_FLAGS, "-ldflags", "-s -w", "-o", adapter, ADAPTER, settings=settings, cwd=HERE / "adapter")
    folder = tmp_path_factory.mktemp("image")
    shutil.copy(adapter, folder / "adapter")
    shutil.copy(settings.bin / "prometheus", folder / "prometheus")
    shutil.copy(HERE / "discover.py", folder / "discover.py")
    base = f"BASE_IMAGE={images['operator']}"
    command = ["docker", "build", "--quiet", "--file", str(HERE / "Dockerfile"), "--build-arg", base, str(folder)]
    built = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    tag = f"tuneyard/autoscaling:{built.removeprefix('sha256:')[:12]}"
    subprocess.run(["docker", "tag", built, tag], check=True)
    load.load([tag], settings)
    return tag


@pytest.fixture(scope="module")
def metrics_api(metrics_image: str) -> Iterator[None]:
    """Metrics of pods in the API server, by the rules of the example."""
    rules = yaml.safe_load((ROOT / "examples" / "autoscaling" / "prometheus-adapter.yaml").read_text())["rules"]
    text = (HERE / "stack.yaml").read_text().replace("IMAGE", metrics_image)
    objects = list(yaml.safe_load_all(text))
    configuration = {"config.yaml": yaml.safe_dump({"rules": rules["custom"]})}
    metadata = {"name": "adapter", "namespace": SYSTEM}
    objects.insert(1, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": configuration})
    apply(*objects)
    try:
        kubectl("rollout", "status", "deployment/metrics", "-n", SYSTEM, "--timeout=120s", timeout=130)
        yield
    finally:
        for each in reversed(objects):
            kubectl("delete", "--ignore-not-found", "-f", "-", stdin=json.dumps(each), timeout=180)


@pytest.fixture(scope="module")
def server(new_namespace: NamespaceFactory, metrics_api: None, store: ObjectStore) -> Json:  # noqa: F811
    """A ModelServer with the autoscaler of the example, which here decides within seconds."""
    namespace = new_namespace(NAMESPACE)
    with store.reached_from_here() as s3:
        digest = read_manifest(s3, MODEL).digest
    model = {"uri": MODEL, "digest": digest, "secretRef": {"name": "s3-credentials"}}
    apply(model_server(SERVER, namespace, model, vllm={"maxModelLen": 8192, "maxNumSeqs": AT_ONCE}))
    autoscaler = yaml.safe_load((ROOT / "examples" / "autoscaling" / "hpa.yaml").read_text())
    autoscaler["metadata"]["namespace"] = namespace
    autoscaler["spec"]["maxReplicas"] = 2
    for direction in autoscaler["spec"]["behavior"].values():
        direction["stabilizationWindowSeconds"] = min(direction["stabilizationWindowSeconds"], 15)
        direction["policies"][0]["periodSeconds"] = 15
    found = wait_for_server(SERVER, namespace)
    apply(autoscaler)
    return found


@pytest.fixture(scope="module")
def stream_tokens(server: Json, images: dict[str, str]) -> int:  # noqa: F811
    """As many tokens as a stream yields in a minute while others run beside it."""
    tokens = 150
    start_clients(images["trainer"], STREAMS, tokens)
    seconds: list[float] = [ended["seconds"] for ended in ended_streams()]
    return round(tokens * STREAM_SECONDS / (sum(seconds) / len(seconds)))


@pytest.mark.parametrize("cycle", range(CYCLES))
def test_up_and_down(cycle: int, server: Json, stream_tokens: int, images: dict[str, str]) -> None:  # noqa: F811
    began = time.time()
    start_clients(images["trainer"], BUSY_CLIENTS, 100, "repeat")
    wait_until(lambda: ready_replicas() == 2, "the second replica is ready", 400)
    print(f"two replicas after {time.time() - began:.0f} s")
    stop_clients()

    wait_until(lambda: all(running(pod) == 0 for pod in replicas()), "no request runs", 120)
    start_clients(images["trainer"], STREAMS, stream_tokens, "repeat")
    wait_until(lambda: all(running(pod) > 0 for pod in replicas()), "each replica streams", 30)
    began = time.time()
    wait_until(lambda: get("modelserver", SERVER, NAMESPACE)["spec"]["replicas"] == 1, "scaled down", 400)
    removed_at = time.time()
    kubectl("exec", "clients", "-n", NAMESPACE, "--", "python3", "-c", "import os; os.kill(1, 10)")  # SIGUSR1
    streams = ended_streams()
    running_then = [each for each in streams if each["began"] < removed_at < each["began"] + each["seconds"]]
    assert len(running_then) == STREAMS, streams
    assert {ended["last"] for ended in streams} == {"data: [DONE]"}, streams
    assert {ended["tokens"] for ended in streams} == {stream_tokens}, streams
    print(f"removed after {removed_at - began:.0f} s, during streams of {[each['seconds'] for each in running_then]} s")
    wait_until(lambda: len(replicas()) == 1, "one replica is left", 120)


def ready_replicas() -> int:
    return int(get("modelserver", SERVER, NAMESPACE)["status"].get("readyReplicas", 0))


def replicas() -> list[str]:
    """The names of the server's pods, also of those that drain."""
    return [pod["metadata"]["name"] for pod in items("pods", NAMESPACE, f"tuneyard.dev/modelserver={SERVER}")]


def running(pod: str) -> float:
    """Requests that the replica runs, by its own metrics."""
    try:
        text = kubectl("get", "--raw", f"/api/v1/namespaces/{NAMESPACE}/pods/{pod}:8082/proxy/metrics")
    except KubectlError:
        return 0
    return sum(float(value) for value in re.findall(r"^vllm:num_requests_running\{.*\} (\S+)$", text, re.MULTILINE))


def start_clients(image: str, clients: int, tokens: int, repeat: str = "once") -> None:
    """A pod whose clients stream answers, instead of the one before."""
    stop_clients()
    script = (HERE / "clients.py").read_text()
    words = [SERVER, str(clients), str(tokens), repeat]
    container = {
        "name": "clients",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-c", script, *words],
        "securityContext": CONTAINER_SECURITY,
    }
    spec: Json = {"securityContext": POD_SECURITY, "containers": [container], "restartPolicy": "Never"}
    metadata: Json = {"name": "clients", "namespace": NAMESPACE}
    apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})


def stop_clients() -> None:
    kubectl("delete", "pod", "clients", "-n", NAMESPACE, "--ignore-not-found", "--grace-period=0", "--force")


def ended_streams() -> list[dict[str, Any]]:
    """What each stream of the pod saw, when all have ended."""
    phase = "jsonpath={.status.phase}"
    wait_until(
        lambda: kubectl("get", "pod", "clients", "-n", NAMESPACE, "-o", phase) == "Succeeded", "the streams end", 300
    )
    return [json.loads(line) for line in kubectl("logs", "clients", "-n", NAMESPACE).splitlines()]
