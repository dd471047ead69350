"""Training over several nodes with a real API server and Job controller; the test plays the nodes."""

from collections.abc import Iterator

import pytest

from bench import ours
from demo.kubectl import wait_until
from support.apiserver import ApiServer, Json, api_server
from support.playedpods import NAMESPACE, apply, created, end, prepare, run, status, succeed, training, training_job
from support.podstatus import termination
from tuneyard_api.names import EXIT_TRY_AGAIN, EXIT_UNKNOWN

TWO: Json = {"gpus": 0, "nodes": 2}
BACKOFF_SECONDS = 40  # the Job controller waits for ten, then for twenty, before it replaces a pod


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    folder = tmp_path_factory.mktemp("nodes")
    with api_server(folder / "server", controllers="job-controller,garbage-collector-controller") as running:
        running.install_crds()
        with ours.operator("operator", running.kubeconfig, running.folder) as operator:
            operator.wait_ready()
            yield running


def begun(server: ApiServer, name: str) -> list[Json]:
    """Both pods run."""
    pods = created(server, name, "train", 2, BACKOFF_SECONDS)
    for pod in pods:
        run(server, pod)
    wait_until(lambda: training(server, name)["state"] == "Running", "both pods run", 20, every=0.2)
    return pods


@pytest.mark.lifecycle("nodes-missing")
def test_pods_have_names_and_wait_for_each_other(server: ApiServer) -> None:
    apply(server, "waits", resources=TWO)
    prepare(server, "waits")
    first, second = created(server, "waits", "train", 2)
    job = training_job(server, "waits")["metadata"]["name"]
    assert [pod["spec"]["hostname"] for pod in (first, second)] == [f"{job}-0", f"{job}-1"]
    assert {pod["spec"]["subdomain"] for pod in (first, second)} == {job}
    service = server.request("GET", f"/api/v1/namespaces/{NAMESPACE}/services/{job}")
    assert service["spec"]["clusterIP"] == "None"
    (container,) = second["spec"]["containers"]
    assert {each["name"] for each in container["env"]} >= {"MASTER_ADDR", "MASTER_PORT", "JOB_COMPLETION_INDEX"}

    run(server, second)
    expected = "WaitingForNodes: 1 of 2 pods run"
    wait_until(lambda: training(server, "waits").get("message") == expected, "it says so", 20, every=0.2)
    run(server, first)
    wait_until(lambda: training(server, "waits")["state"] == "Running", "both pods run", 20, every=0.2)
    assert "message" not in training(server, "waits")


def test_lost_pod_restarts_all_uncharged(server: ApiServer) -> None:
    apply(server, "lost", resources=TWO)
    prepare(server, "lost")
    first, second = begun(server, "lost")
    end(server, second, EXIT_TRY_AGAIN, termination("Preempted", "SIGTERM at step 5"))
    end(server, first, EXIT_TRY_AGAIN, termination("PeerLost", "Another node is gone."))
    again = begun(server, "lost")
    assert {pod["metadata"]["uid"] for pod in again}.isdisjoint({first["metadata"]["uid"], second["metadata"]["uid"]})
    assert [pod["spec"]["hostname"] for pod in again] == [pod["spec"]["hostname"] for pod in (first, second)]
    for pod in again:
        succeed(server, pod)
    wait_until(lambda: training(server, "lost")["state"] == "Succeeded", "it has trained", 20, every=0.2)
    assert status(server, "lost")["restarts"] == {"preempted": 1, "failed": 0}


@pytest.mark.lifecycle("node-crashed")
def test_crashing_pod_fails_the_job(server: ApiServer) -> None:
    apply(server, "crashes", resources=TWO, retryPolicy={"backoffLimit": 1})
    prepare(server, "crashes")
    for message in ("once", "twice"):
        first, second = begun(server, "crashes")
        end(server, second, EXIT_UNKNOWN, termination("StageCrashed", message))
        end(server, first, EXIT_TRY_AGAIN, termination("PeerLost", "Another node is gone."))
    wait_until(lambda: status(server, "crashes")["phase"] == "Failed", "it has failed", 30, every=0.2)
    (failed,) = [each for each in status(server, "crashes")["conditions"] if each["type"] == "Failed"]
    assert (failed["reason"], failed["message"]) == (
        "StageCrashed",
        "twice. Then apply the changed spec, or without a change: kubectl tuneyard retry crashes -n default",
    )
