"""FineTuneJobs on an API server without nodes: the test applies them, reads their status, and runs their pods."""

from typing import Final
from urllib.error import HTTPError

from demo.kubectl import wait_until
from support.apiserver import ApiServer, Json
from support.podstatus import termination
from support.reports import PREPARED
from tuneyard_api.names import LABEL_FINETUNEJOB, LABEL_STAGE, Stage

NAMESPACE: Final = "default"
OURS: Final = f"/apis/tuneyard.dev/v1alpha1/namespaces/{NAMESPACE}/finetunejobs"
PODS: Final = f"/api/v1/namespaces/{NAMESPACE}/pods"
JOBS: Final = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"
MERGE: Final = "application/merge-patch+json"


# A FineTuneJob and what it says.


def apply(server: ApiServer, name: str, **spec: object) -> None:
    parts: Json = {
        "model": {"uri": "s3://models/m"},
        "dataset": {"train": [{"uri": "s3://data/d.jsonl"}]},
        "output": {"uri": "s3://out", "secretRef": {"name": "keys"}},
        "resources": {"gpus": 0},
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


def select(server: ApiServer, path: str, name: str, stage: Stage) -> list[Json]:
    selector = f"{LABEL_FINETUNEJOB}%3D{name},{LABEL_STAGE}%3D{stage}".replace("/", "%2F")
    found: list[Json] = server.request("GET", f"{path}?labelSelector={selector}")["items"]
    return found


# The node.


def begin(server: ApiServer, name: str, stage: Stage) -> Json:
    """Waits for the stage's pod and runs it."""
    (pod,) = created(server, name, stage, 1)
    run(server, pod)
    return pod


def created(server: ApiServer, name: str, stage: Stage, number: int, seconds: float = 20) -> list[Json]:
    """Waits for so many pods of the stage that have not ended; by name."""

    def there() -> list[Json]:
        pods = [pod for pod in select(server, PODS, name, stage) if pod["status"]["phase"] in ("Pending", "Running")]
        return sorted(pods, key=lambda pod: str(pod["metadata"]["name"]))

    wait_until(lambda: len(there()) == number, f"{name} has {number} pods for {stage}", seconds, every=0.2)
    return there()


def run(server: ApiServer, pod: Json) -> None:
    path = f"{PODS}/{pod['metadata']['name']}"
    target = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod["metadata"]["name"]}}
    server.request("POST", f"{path}/binding", {**target, "target": {"kind": "Node", "name": "node"}})
    tell(server, path, "Running", {"running": {}})


def end(server: ApiServer, pod: Json, code: int, message: str, finished_at: str = "") -> None:
    """The pod's container exits; a pod that was being deleted is gone then."""
    path = f"{PODS}/{pod['metadata']['name']}"
    finished_at = finished_at or pod["metadata"]["creationTimestamp"]
    exited = {"exitCode": code, "message": message, "finishedAt": finished_at}
    tell(server, path, "Failed" if code else "Succeeded", {"terminated": exited})
    if is_deleting(server, pod):
        remove(server, pod)


def remove(server: ApiServer, pod: Json) -> None:
    """As kubectl delete --force does, and whoever deleted its Job."""
    try:
        server.request("DELETE", f"{PODS}/{pod['metadata']['name']}", {"gracePeriodSeconds": 0})
    except HTTPError as error:
        if error.code != 404:
            raise


def tell(server: ApiServer, path: str, phase: str, state: Json) -> None:
    container = {"name": "stage", "state": state, "ready": False, "restartCount": 0, "image": "", "imageID": ""}
    server.request("PATCH", f"{path}/status", {"status": {"phase": phase, "containerStatuses": [container]}}, MERGE)


def is_deleting(server: ApiServer, pod: Json) -> bool:
    try:
        return "deletionTimestamp" in server.request("GET", f"{PODS}/{pod['metadata']['name']}")["metadata"]
    except HTTPError as error:
        if error.code == 404:
            return True
        raise


def prepare(server: ApiServer, name: str) -> None:
    """The job, up to where its training begins, or asks for quota."""
    end(server, begin(server, name, "prepare"), 0, termination("Completed", result=PREPARED))


def trained(server: ApiServer, pod: Json) -> None:
    end(server, pod, 0, termination("Completed", result={}))
