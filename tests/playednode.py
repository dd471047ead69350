"""The test plays the node that runs the stages' pods, on an API server with a real Job controller."""

from typing import Final
from urllib.error import HTTPError

from apiserver import ApiServer, Json
from demo.kubectl import wait_until
from operatorbuilders import DATASET, DIGESTS, said
from tuneyard_api.names import LABEL_FINETUNEJOB, LABEL_STAGE, Stage

PODS: Final = "/api/v1/namespaces/default/pods"
JOBS: Final = "/apis/batch/v1/namespaces/default/jobs"
MERGE: Final = "application/merge-patch+json"


def select(server: ApiServer, path: str, name: str, stage: Stage) -> list[Json]:
    """The FineTuneJob's Jobs or pods of that stage."""
    selector = f"{LABEL_FINETUNEJOB}%3D{name},{LABEL_STAGE}%3D{stage}".replace("/", "%2F")
    found: list[Json] = server.request("GET", f"{path}?labelSelector={selector}")["items"]
    return found


def begin(server: ApiServer, name: str, stage: Stage) -> Json:
    """Waits for the stage's pod and runs it."""
    wait_until(lambda: len(select(server, PODS, name, stage)) == 1, f"{name} has a pod for {stage}", 20, every=0.2)
    (pod,) = select(server, PODS, name, stage)
    path = f"{PODS}/{pod['metadata']['name']}"
    target = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod["metadata"]["name"]}}
    server.request("POST", f"{path}/binding", {**target, "target": {"kind": "Node", "name": "node"}})
    tell(server, path, "Running", {"running": {}})
    return pod


def end(server: ApiServer, pod: Json, code: int, message: str, finished_at: str = "") -> None:
    """The pod's container exits; a pod that was being deleted is gone then."""
    path = f"{PODS}/{pod['metadata']['name']}"
    finished_at = finished_at or pod["metadata"]["creationTimestamp"]
    exited = {"exitCode": code, "message": message, "finishedAt": finished_at}
    tell(server, path, "Failed" if code else "Succeeded", {"terminated": exited})
    if is_going(server, pod):
        server.request("DELETE", path, {"gracePeriodSeconds": 0})


def tell(server: ApiServer, path: str, phase: str, state: Json) -> None:
    container = {"name": "stage", "state": state, "ready": False, "restartCount": 0, "image": "", "imageID": ""}
    server.request("PATCH", f"{path}/status", {"status": {"phase": phase, "containerStatuses": [container]}}, MERGE)


def is_going(server: ApiServer, pod: Json) -> bool:
    try:
        return "deletionTimestamp" in server.request("GET", f"{PODS}/{pod['metadata']['name']}")["metadata"]
    except HTTPError as error:
        if error.code == 404:
            return True
        raise


def prepare(server: ApiServer, name: str) -> None:
    """The job, up to where its training asks for quota."""
    result = {"digests": DIGESTS, "done": [], "dataset": DATASET, "totalSteps": 4}
    end(server, begin(server, name, "prepare"), 0, said("Completed", result=result))


def trained(server: ApiServer, pod: Json) -> None:
    end(server, pod, 0, said("Completed", result={}))
