"""Statuses of pods as a kubelet writes them: pure builders."""

from datetime import UTC, datetime

from chaos.api import Json
from chaos.stages import PREEMPTED, End


def running(container: Json, address: str) -> Json:
    return {
        "phase": "Running",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "startTime": now(),
        "conditions": [ready(True)],
        "containerStatuses": [state(container, {"running": {"startedAt": now()}}, ready=True)],
    }


def ended(container: Json, end: End) -> Json:
    return {
        "phase": "Failed" if end.code else "Succeeded",
        "conditions": [ready(False)],
        "containerStatuses": [state(container, terminated(end))],
    }


def cut_short(pod: Json) -> Json:
    """A pod that was told to end: its container exits as it does on SIGTERM, if it ran."""
    ran = pod.get("status", {}).get("containerStatuses", [])
    (container, *_) = pod["spec"]["containers"]
    return ended(container, PREEMPTED) if ran else {"phase": "Failed", "conditions": [ready(False)]}


def terminated(end: End) -> Json:
    reason = "Error" if end.code else "Completed"
    at = now()
    return {
        "terminated": {
            "exitCode": end.code,
            "reason": reason,
            "message": end.message,
            "startedAt": at,
            "finishedAt": at,
        }
    }


def state(container: Json, now: Json, *, last: Json | None = None, ready: bool = False, restarts: int = 0) -> Json:
    return {
        "name": container["name"],
        "image": container["image"],
        "imageID": "",
        "ready": ready,
        "restartCount": restarts,
        "state": now,
        "lastState": last or {},
    }


def ready(is_ready: bool) -> Json:
    return {"type": "Ready", "status": "True" if is_ready else "False", "lastTransitionTime": now()}


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
