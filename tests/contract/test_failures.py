"""How a FineTuneJob reports the end of pods, on an API server with Kubernetes' own Job controller."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Final
from urllib.error import HTTPError

import pytest

from bench import ours
from bench.processes import Program
from demo.kubectl import wait_until
from support.apiserver import ApiServer, Json, api_server
from support.playedpods import JOBS, PODS, apply, begin, end, prepare, remove, select, status
from support.podstatus import termination
from tuneyard_api.names import EXIT_DOES_NOT_FIT, EXIT_TRY_AGAIN

LONG_AGO: Final = "2020-01-01T00:00:00Z"  # what ended then is waited for no longer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    folder = tmp_path_factory.mktemp("failures") / "server"
    with api_server(folder, controllers="job-controller,garbage-collector-controller") as running:
        running.install_crds()
        yield running


def operator(server: ApiServer) -> AbstractContextManager[Program]:
    return ours.operator("operator", server.kubeconfig, server.folder)


def failure(server: ApiServer, name: str) -> Json:
    """The condition Failed of a FineTuneJob, once it has failed."""
    wait_until(lambda: status(server, name).get("phase") == "Failed", f"{name} has failed", 20, every=0.2)
    (found,) = [each for each in status(server, name)["conditions"] if each["type"] == "Failed"]
    return dict(found)


def evict(server: ApiServer, pod: Json) -> None:
    """Deletes a pod and waits until it does not exist."""
    remove(server, pod)
    wait_until(lambda: is_gone(server, f"{PODS}/{pod['metadata']['name']}"), "the pod is gone", 20, every=0.2)


def is_gone(server: ApiServer, path: str) -> bool:
    try:
        server.request("GET", path)
    except HTTPError as error:
        return error.code == 404
    return False


@pytest.mark.lifecycle("failed-pod-deleted")
def test_pod_deleted_after_its_failure(server: ApiServer) -> None:
    with operator(server) as running:
        running.wait_ready()
        apply(server, "observed")
        prepare(server, "observed")
        pod = begin(server, "observed", "train")
        end(
            server,
            pod,
            EXIT_DOES_NOT_FIT,
            termination("OutOfMemory", "The model needs 90 GiB", "Lower the batch size"),
        )
        evict(server, pod)
        found = failure(server, "observed")
        assert (found["reason"], found["message"]) == (
            "OutOfMemory",
            "The model needs 90 GiB. Lower the batch size. Change the spec and apply it again.",
        )


@pytest.mark.lifecycle("reason-lost")
def test_unobserved_pod_has_its_exit_code(server: ApiServer) -> None:
    with operator(server) as running:
        running.wait_ready()
        apply(server, "unobserved")
        prepare(server, "unobserved")
        pod = begin(server, "unobserved", "train")
    end(
        server,
        pod,
        EXIT_DOES_NOT_FIT,
        termination("OutOfMemory", "The model needs 90 GiB", "Lower the batch size"),
    )
    evict(server, pod)
    with operator(server) as running:
        running.wait_ready()
        found = failure(server, "unobserved")
        assert found["reason"] == "ReasonLost", found
        assert f"involvedObject.name={pod['metadata']['name']}" in found["message"]
        assert "failed with exit code 78" in found["message"]


def preempt(server: ApiServer, pod: Json, finished_at: str = "") -> None:
    end(server, pod, EXIT_TRY_AGAIN, termination("Preempted", "SIGTERM at step 5"), finished_at)
    evict(server, pod)


@pytest.mark.lifecycle("preempted-often")
def test_often_preempted_job_is_recreated(server: ApiServer) -> None:
    with operator(server) as running:
        running.wait_ready()
        apply(server, "preempted")
        prepare(server, "preempted")
        for _ in range(3):
            preempt(server, begin(server, "preempted", "train"), LONG_AGO)
        fourth = begin(server, "preempted", "train")
        (before,) = select(server, JOBS, "preempted", "train")
        preempt(server, fourth)  # its Job would wait for 80 s
        last = begin(server, "preempted", "train")  # within 20 s
        (after,) = select(server, JOBS, "preempted", "train")
        assert after["metadata"]["uid"] != before["metadata"]["uid"]
        assert after["metadata"]["name"] == before["metadata"]["name"]

        preempt(server, last, LONG_AGO)
        begin(server, "preempted", "train")
        (same,) = select(server, JOBS, "preempted", "train")
        assert same["metadata"]["uid"] == after["metadata"]["uid"], "one loss is no reason"
        counted = {"preempted": 5, "failed": 0}
        wait_until(lambda: status(server, "preempted")["restarts"] == counted, "all are counted", 20, every=0.2)
