"""Statuses of pods as a kubelet writes them: pure builders. `at` is a time as the API server writes it."""

from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from tuneyard_api import reasons
from tuneyard_api.contracts.termination import Termination
from tuneyard_api.names import EXIT_TRY_AGAIN

Json = dict[str, Any]


def termination(reason: str, message: str = "", advice: str = "", result: Json | None = None) -> str:
    """The termination message of one of tuneyard's own programs."""
    return Termination(reason=reason, message=message, advice=advice, result=result).encode().decode()


class End(NamedTuple):
    """How a container ends."""

    code: int
    message: str = ""  # its termination message


PREEMPTED: Final = End(EXIT_TRY_AGAIN, termination(reasons.PREEMPTED, "The stage was stopped before it had finished."))
STORE_AWAY: Final = End(EXIT_TRY_AGAIN, termination(reasons.STORAGE_UNAVAILABLE, "The store does not answer."))


def running(at: str) -> Json:
    return {"running": {"startedAt": at}}


def waiting(reason: str, message: str = "") -> Json:
    return {"waiting": {"reason": reason, "message": message}}


def terminated(end: End, at: str, reason: str = "") -> Json:
    reason = reason or ("Error" if end.code else "Completed")
    times = {"startedAt": at, "finishedAt": at}
    return {"terminated": {"exitCode": end.code, "reason": reason, "message": end.message, **times}}


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


def pod_ended(pod: Json, end: End, at: str, reason: str = "") -> Json:
    """All containers of the pod have exited in the same way; the pod of a stage has only one."""
    ended = terminated(end, at, reason)
    return {
        "phase": "Failed" if end.code else "Succeeded",
        "conditions": [condition("Ready", False, at)],
        "containerStatuses": [container(spec, ended) for spec in pod["spec"]["containers"]],
    }


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
