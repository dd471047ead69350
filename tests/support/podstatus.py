"""Statuses of pods as a kubelet writes them: pure builders. `at` is a time as the API server writes it."""

from typing import Any

from tuneyard_api.contracts.termination import Termination

Json = dict[str, Any]


def termination(reason: str, message: str = "", advice: str = "", result: Json | None = None) -> str:
    """The termination message of one of tuneyard's own programs."""
    return Termination(reason=reason, message=message, advice=advice, result=result).encode().decode()


def running(at: str) -> Json:
    return {"running": {"startedAt": at}}


def waiting(reason: str, message: str = "") -> Json:
    return {"waiting": {"reason": reason, "message": message}}


def terminated(code: int, message: str, at: str, reason: str = "") -> Json:
    reason = reason or ("Error" if code else "Completed")
    times = {"startedAt": at, "finishedAt": at}
    return {"terminated": {"exitCode": code, "reason": reason, "message": message, **times}}


def container(spec: Json, state: Json, *, last: Json | None = None, ready: bool = False, restarts: int = 0) -> Json:
    """The status of one container; `spec` is the container in the pod's spec."""
    return {
        "name": spec["name"],
        "image": spec["image"],
        "imageID": "",
        "ready": ready,
        "restartCount": restarts,
        "state": state,
        "lastState": last or {},
    }


def condition(kind: str, is_true: bool, at: str, **why: str) -> Json:
    return {"type": kind, "status": "True" if is_true else "False", "lastTransitionTime": at, **why}


def pod_running(pod: Json, at: str, ip: str = "") -> Json:
    """All containers of the pod run and are ready."""
    address = {"podIP": ip, "podIPs": [{"ip": ip}]} if ip else {}
    return {
        "phase": "Running",
        "startTime": at,
        "conditions": [condition("Ready", True, at)],
        "containerStatuses": [container(spec, running(at), ready=True) for spec in pod["spec"]["containers"]],
        **address,
    }


def pod_ended(pod: Json, code: int, message: str, at: str, reason: str = "") -> Json:
    """The only container of the pod has exited."""
    (spec,) = pod["spec"]["containers"]
    return {
        "phase": "Failed" if code else "Succeeded",
        "conditions": [condition("Ready", False, at)],
        "containerStatuses": [container(spec, terminated(code, message, at, reason))],
    }
