"""The operator and Kueue's real controller share the Jobs of training; the test plays the node that runs their pods."""

import base64
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

import kueuemanifests as kueue
from apiserver import TOKEN, ApiServer, Json, api_server, free_ports
from bench import ours
from demo.kubectl import wait_until
from operatorbuilders import said
from playednode import JOBS, begin, end, is_going, prepare, select, trained
from tuneyard_api.names import EXIT_TRY_AGAIN, FIELD_MANAGER
from tuneyard_cluster import tools
from tuneyard_cluster.settings import from_environment

NAMESPACE: Final = "default"
OURS: Final = f"/apis/tuneyard.dev/v1alpha1/namespaces/{NAMESPACE}/finetunejobs"
ROOM: Final = {"cpu": "1", "memory": "1Gi"}
WAITS: Final = f"waits in queue {kueue.QUEUE} until Kueue admits it"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """With CRDs, a queue with room for one training, Kueue and the operator."""
    folder = tmp_path_factory.mktemp("queue")
    with api_server(folder / "server", controllers="job-controller,garbage-collector-controller") as running:
        running.install_crds()
        with (
            kueue_process(running, folder),
            ours.operator("operator", running.kubeconfig, running.folder) as operator,
        ):
            operator.wait_ready()
            queue = [*kueue.cluster_queue(NAMESPACE, ROOM), kueue.local_queue(NAMESPACE)]
            # A webhook is known to the API server a little later than it is there.
            wait_until(lambda: applied(running, queue), "Kueue's webhooks answer", 60)
            yield running


@contextmanager
def kueue_process(server: ApiServer, folder: Path) -> Iterator[None]:
    """Kueue outside the cluster, with the rights that it has inside; its webhooks are reached on loopback."""
    webhooks, probes = free_ports(2)
    config = kueue.configuration(
        NAMESPACE,
        webhook={"host": "127.0.0.1", "port": webhooks, "certDir": str(folder)},
        health={"healthProbeBindAddress": f"127.0.0.1:{probes}"},
    )
    things = kueue.manifests(server.kubectl, NAMESPACE, "kueue:1", config)  # nobody runs the Deployment
    (secret,) = [each for each in things if each["kind"] == "Secret"]
    for name, content in secret["data"].items():
        (folder / name).write_bytes(base64.b64decode(content))
    for each in things:
        reach_on_loopback(each, webhooks)
    assert applied(server, things)
    (folder / "config.json").write_text(json.dumps(config))
    command: list[str | Path] = [tools.ensure("kueue", from_environment()), f"--config={folder / 'config.json'}"]
    environment = os.environ | {"KUBECONFIG": str(kubeconfig_of_kueue(server, folder))}
    with (folder / "kueue.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)


def reach_on_loopback(thing: Json, port: int) -> None:
    clients = [each["clientConfig"] for each in thing.get("webhooks", [])]
    conversion = thing.get("spec", {}).get("conversion", {}).get("webhook")
    for each in [*clients, *([conversion["clientConfig"]] if conversion else [])]:
        each["url"] = f"https://127.0.0.1:{port}{each.pop('service')['path']}"


def kubeconfig_of_kueue(server: ApiServer, folder: Path) -> Path:
    config = json.loads(server.kubeconfig.read_text())
    account = f"system:serviceaccount:{kueue.SYSTEM}:kueue-controller-manager"
    config["users"][0]["user"] = {"token": TOKEN, "as": account, "as-groups": ["system:authenticated"]}
    path = folder / "kubeconfig"
    path.write_text(json.dumps(config))
    return path


def applied(server: ApiServer, things: list[Json]) -> bool:
    """Whether the API server took them all."""
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": things})
    command = [*server.kubectl, "apply", "--server-side", "-f", "-"]
    done = subprocess.run(command, input=listed, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode == 0


# A FineTuneJob and what it says.


def apply(server: ApiServer, name: str, **spec: object) -> None:
    parts: Json = {
        "model": {"uri": "s3://models/m"},
        "dataset": {"train": [{"uri": "s3://data/d.jsonl"}]},
        "output": {"uri": "s3://out", "secretRef": {"name": "keys"}},
        "resources": {"gpus": 0, "requests": ROOM},
        "queueName": kueue.QUEUE,
    }
    metadata = {"name": name}
    kind = {"apiVersion": "tuneyard.dev/v1alpha1", "kind": "FineTuneJob"}
    server.request("POST", OURS, {**kind, "metadata": metadata, "spec": parts | spec})


def status(server: ApiServer, name: str) -> Json:
    found: Json = server.request("GET", f"{OURS}/{name}").get("status", {})
    return found


def training(server: ApiServer, name: str) -> Json:
    """The entry of the stage in the status."""
    return next((each for each in status(server, name).get("stages", []) if each["name"] == "train"), {})


def training_job(server: ApiServer, name: str) -> Json:
    (job,) = select(server, JOBS, name, "train")
    return job


def until_it_waits(server: ApiServer, name: str) -> None:
    wait_until(lambda: training(server, name).get("message") == WAITS, f"{name} says that it waits", 20, every=0.2)
    assert training(server, name)["state"] == "Pending"


def writes_of_the_operator(job: Json) -> list[str]:
    """When the operator wrote the Job; the last time for each kind of write."""
    return [str(each.get("time")) for each in job["metadata"]["managedFields"] if each["manager"] == FIELD_MANAGER]


def test_training_waits_for_the_one_before_it(server: ApiServer) -> None:
    apply(server, "first")
    prepare(server, "first")
    first = begin(server, "first", "train")
    apply(server, "second")
    prepare(server, "second")
    until_it_waits(server, "second")
    assert training_job(server, "second")["spec"]["suspend"]

    trained(server, first)
    second = begin(server, "second", "train")
    wait_until(lambda: training(server, "second")["state"] == "Running", "its status says so", 20, every=0.2)
    assert "message" not in training(server, "second")
    trained(server, second)


def test_a_preempted_training_goes_on_after_the_urgent_one(server: ApiServer) -> None:
    apply(server, "patient")
    prepare(server, "patient")
    interrupted = begin(server, "patient", "train")
    before = training_job(server, "patient")

    apply(server, "urgent", priorityClassName=kueue.URGENT)
    prepare(server, "urgent")
    wait_until(lambda: is_going(server, interrupted), "the pod of the patient one is told to end", 20, every=0.2)
    end(server, interrupted, EXIT_TRY_AGAIN, said("Preempted", "SIGTERM at step 5"))
    urgent = begin(server, "urgent", "train")
    until_it_waits(server, "patient")
    apply(server, "later")
    prepare(server, "later")
    until_it_waits(server, "later")
    trained(server, urgent)

    resumed = begin(server, "patient", "train")
    assert training(server, "later")["message"] == WAITS, "it came later"
    assert resumed["metadata"]["uid"] != interrupted["metadata"]["uid"]
    wait_until(lambda: training(server, "patient")["state"] == "Running", "it goes on", 20, every=0.2)
    trained(server, resumed)
    wait_until(lambda: training(server, "patient")["state"] == "Succeeded", "it has trained", 20, every=0.2)
    assert status(server, "patient")["restarts"] == {"preempted": 1, "failed": 0}
    after = training_job(server, "patient")
    assert after["metadata"]["uid"] == before["metadata"]["uid"], "the Job was not made again"
    assert writes_of_the_operator(after) == [after["metadata"]["creationTimestamp"]], "its suspend is Kueue's"
