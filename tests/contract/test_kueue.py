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

from bench import ours
from demo.kubectl import wait_until
from support import kueuemanifests as kueue
from support.apiserver import TOKEN, ApiServer, Json, api_server, free_ports
from support.playedpods import (
    NAMESPACE,
    PODS,
    apply,
    begin,
    created,
    end,
    is_deleting,
    prepare,
    run,
    select,
    status,
    succeed,
    training,
    training_job,
)
from support.podstatus import termination
from tuneyard_api.names import EXIT_TRY_AGAIN, FIELD_MANAGER
from tuneyard_cluster import tools
from tuneyard_cluster.settings import from_environment

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


def apply_queued(server: ApiServer, name: str, **spec: object) -> None:
    apply(server, name, **({"resources": {"gpus": 0, "requests": ROOM}, "queueName": kueue.QUEUE} | spec))


def until_it_waits(server: ApiServer, name: str) -> None:
    wait_until(lambda: WAITS in training(server, name).get("message", ""), f"{name} says that it waits", 20, every=0.2)
    assert training(server, name)["state"] == "Pending"


def writes_of_the_operator(job: Json) -> list[str]:
    """When the operator wrote the Job; the last time for each kind of write."""
    return [str(each.get("time")) for each in job["metadata"]["managedFields"] if each["manager"] == FIELD_MANAGER]


def test_training_waits_for_quota(server: ApiServer) -> None:
    apply_queued(server, "first")
    prepare(server, "first")
    first = begin(server, "first", "train")
    apply_queued(server, "second")
    prepare(server, "second")
    until_it_waits(server, "second")
    assert training_job(server, "second")["spec"]["suspend"]

    succeed(server, first)
    second = begin(server, "second", "train")
    wait_until(lambda: training(server, "second")["state"] == "Running", "its status says so", 20, every=0.2)
    assert "message" not in training(server, "second")
    succeed(server, second)


def test_all_nodes_are_admitted_together(server: ApiServer) -> None:
    half = {"gpus": 0, "requests": {"cpu": "500m", "memory": "512Mi"}}
    apply_queued(server, "solo", resources=half)
    prepare(server, "solo")
    solo = begin(server, "solo", "train")
    apply_queued(server, "pair", resources=half | {"nodes": 2})
    prepare(server, "pair")
    until_it_waits(server, "pair")
    assert select(server, PODS, "pair", "train") == [], "there is room for one, but not for both"

    succeed(server, solo)
    pods = created(server, "pair", "train", 2)
    for pod in pods:
        run(server, pod)
    wait_until(lambda: training(server, "pair")["state"] == "Running", "both run", 20, every=0.2)
    for pod in pods:
        succeed(server, pod)
    wait_until(lambda: training(server, "pair")["state"] == "Succeeded", "it has trained", 20, every=0.2)


@pytest.mark.lifecycle("quota-taken-back")
def test_preempted_training_resumes(server: ApiServer) -> None:
    apply_queued(server, "patient")
    prepare(server, "patient")
    interrupted = begin(server, "patient", "train")
    before = training_job(server, "patient")

    apply_queued(server, "urgent", priorityClassName=kueue.URGENT)
    prepare(server, "urgent")
    wait_until(lambda: is_deleting(server, interrupted), "the pod of the patient one is told to end", 20, every=0.2)
    end(server, interrupted, EXIT_TRY_AGAIN, termination("Preempted", "SIGTERM at step 5"))
    urgent = begin(server, "urgent", "train")
    until_it_waits(server, "patient")
    apply_queued(server, "later")
    prepare(server, "later")
    until_it_waits(server, "later")
    succeed(server, urgent)

    resumed = begin(server, "patient", "train")
    assert WAITS in training(server, "later")["message"], "it came later"
    assert resumed["metadata"]["uid"] != interrupted["metadata"]["uid"]
    wait_until(lambda: training(server, "patient")["state"] == "Running", "it goes on", 20, every=0.2)
    succeed(server, resumed)
    wait_until(lambda: training(server, "patient")["state"] == "Succeeded", "it has trained", 20, every=0.2)
    assert status(server, "patient")["restarts"] == {"preempted": 1, "failed": 0}
    after = training_job(server, "patient")
    assert after["metadata"]["uid"] == before["metadata"]["uid"], "the Job was not made again"
    assert len(writes_of_the_operator(after)) == 1, "the operator has only created the Job"
    assert writes_of_the_operator(after) == writes_of_the_operator(before), "its suspend is Kueue's"
