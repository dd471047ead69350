"""FineTuneJobs on an API server without nodes: a test applies them, reads their status, and plays their pods."""

from typing import Any, Final
from urllib.error import HTTPError

from demo.kubectl import wait_until
from support import builders, podstatus
from support.apiserver import ApiServer, Json
from support.podstatus import End, termination
from support.reports import PREPARED
from tuneyard_api import reasons
from tuneyard_api.names import API_VERSION, LABEL_FINETUNEJOB, LABEL_STAGE, Stage

NAMESPACE: Final = "default"
FINE_TUNE_JOBS: Final = f"/apis/{API_VERSION}/namespaces/{NAMESPACE}/finetunejobs"
PODS: Final = f"/api/v1/namespaces/{NAMESPACE}/pods"
JOBS: Final = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"
MERGE: Final = "application/merge-patch+json"


def apply(server: ApiServer, name: str, **spec: Any) -> None:
    job = builders.fine_tune_job(**({"resources": {"gpus": 0}} | spec))
    server.request("POST", FINE_TUNE_JOBS, job | {"metadata": {"name": name}})


def status(server: ApiServer, name: str) -> Json:
    found: Json = server.request("GET", f"{FINE_TUNE_JOBS}/{name}").get("status", {})
    return found


def training(server: ApiServer, name: str) -> Json:
    """The stage's entry in the status."""
    return next((stage for stage in status(server, name).get("stages", []) if stage["name"] == "train"), {})


def training_job(server: ApiServer, name: str) -> Json:
    (job,) = select(server, JOBS, name, "train")
    return job


def select(server: ApiServer, path: str, name: str, stage: Stage) -> list[Json]:
    """The Jobs or pods of a stage."""
    selector = f"{LABEL_FINETUNEJOB}%3D{name},{LABEL_STAGE}%3D{stage}".replace("/", "%2F")
    found: list[Json] = server.request("GET", f"{path}?labelSelector={selector}")["items"]
    return found


def created(server: ApiServer, name: str, stage: Stage, number: int, seconds: float = 20) -> list[Json]:
    """Waits until the stage has so many pods that have not ended; sorted by name."""

    def active() -> list[Json]:
        pods = [pod for pod in select(server, PODS, name, stage) if pod["status"]["phase"] in ("Pending", "Running")]
        return sorted(pods, key=lambda pod: str(pod["metadata"]["name"]))

    wait_until(lambda: len(active()) == number, f"{name} has {number} pods for {stage}", seconds, every=0.2)
    return active()


def begin(server: ApiServer, name: str, stage: Stage) -> Json:
    """Waits for the stage's pod and runs it."""
    (pod,) = created(server, name, stage, 1)
    run(server, pod)
    return pod


def run(server: ApiServer, pod: Json) -> None:
    name = pod["metadata"]["name"]
    target = {"kind": "Node", "name": "node"}
    binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": target}
    server.request("POST", f"{PODS}/{name}/binding", binding)
    _write(server, pod, podstatus.pod_running(pod, pod["metadata"]["creationTimestamp"]))


def end(server: ApiServer, pod: Json, code: int, message: str, finished_at: str = "") -> None:
    """The pod's container exits. A pod that is being deleted is gone then."""
    at = finished_at or pod["metadata"]["creationTimestamp"]
    _write(server, pod, podstatus.pod_ended(pod, End(code, message), at))
    if is_deleting(server, pod):
        remove(server, pod)


def succeed(server: ApiServer, pod: Json, result: Json | None = None) -> None:
    end(server, pod, 0, termination(reasons.COMPLETED, result=result))


def prepare(server: ApiServer, name: str) -> None:
    """The run until its training has a Job."""
    succeed(server, begin(server, name, "prepare"), PREPARED)


def remove(server: ApiServer, pod: Json) -> None:
    """As kubectl delete --force."""
    try:
        server.request("DELETE", _path(pod), {"gracePeriodSeconds": 0})
    except HTTPError as error:
        if error.code != 404:
            raise


def is_deleting(server: ApiServer, pod: Json) -> bool:
    """Whether the pod is being deleted, or is gone."""
    try:
        return "deletionTimestamp" in server.request("GET", _path(pod))["metadata"]
    except HTTPError as error:
        if error.code == 404:
            return True
        raise


def _write(server: ApiServer, pod: Json, status: Json) -> None:
    server.request("PATCH", f"{_path(pod)}/status", {"status": status}, MERGE)


def _path(pod: Json) -> str:
    return f"{PODS}/{pod['metadata']['name']}"
