"""How a container ended: the JSON document of our own programs, or what else the kubelet knows."""

import json
from typing import Final, NamedTuple

from tuneyard_api import reasons
from tuneyard_operator.machinery.objects import Json, condition, is_deleting, name, namespace

# States of a waiting container that do not pass by themselves soon.
STUCK: Final = {
    "ImagePullBackOff",
    "ErrImagePull",
    "ErrImageNeverPull",
    "InvalidImageName",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
    "CrashLoopBackOff",
}


class Outcome(NamedTuple):
    """What a container said when it ended."""

    reason: str
    message: str
    advice: str = ""
    result: Json | None = None

    @property
    def text(self) -> str:
        """Message and advice as sentences."""
        return " ".join(part if part.endswith((".", "!", "?")) else f"{part}." for part in self.parts)

    @property
    def parts(self) -> list[str]:
        return [part for part in (self.message.strip(), self.advice.strip()) if part]


def container_status(pod: Json, container: str) -> Json:
    status = pod.get("status", {})
    listed = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
    return next((each for each in listed if each["name"] == container), {})


def terminated(pod: Json, container: str, *, last: bool = False) -> Json:
    """The state `terminated`; with `last` that of the try before, where it runs or waits again."""
    status = container_status(pod, container)
    now: Json = status.get("state", {}).get("terminated", {})
    return now or (status.get("lastState", {}).get("terminated", {}) if last else {})


def outcome(pod: Json, container: str, *, last: bool = False) -> Outcome | None:
    """None while it has not ended."""
    ended = terminated(pod, container, last=last)
    if not ended:
        return None
    return _our_own(ended.get("message", "")) or _from_kubelet(pod, container, ended)


def _our_own(text: str) -> Outcome | None:
    try:
        document = json.loads(text)
        return Outcome(
            str(document["reason"]),
            str(document.get("message") or ""),
            str(document.get("advice") or ""),
            document.get("result"),
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _from_kubelet(pod: Json, container: str, ended: Json) -> Outcome:
    if ended.get("exitCode") == 0:
        return Outcome(reasons.COMPLETED, "")
    if ended.get("reason") == "OOMKilled":
        return Outcome(
            reasons.OUT_OF_MEMORY,
            f"Container {container} of pod {name(pod)} was killed because it used more memory than its limit.",
            "Raise resources.limits.memory, or lower the batch size or the length of the rows.",
        )
    if said := pod_outcome(pod):
        return said
    lines = [line for line in ended.get("message", "").splitlines() if line.strip()]
    tail = f" Its last words: {lines[-1].strip()}" if lines else ""
    return Outcome(
        reasons.STAGE_CRASHED,
        f"Container {container} of pod {name(pod)} exited with {ended.get('exitCode')}.{tail}",
        f"See kubectl logs -n {namespace(pod)} {name(pod)} -c {container}",
    )


def pod_outcome(pod: Json) -> Outcome | None:
    """Why a pod failed as a whole: evicted, or refused by its node before a container began."""
    status = pod.get("status", {})
    if status.get("phase") != "Failed" or not status.get("reason"):
        return None
    said = f"{status['reason']}: {status.get('message', '')}".rstrip(": ")
    advice = f"See kubectl describe pod -n {namespace(pod)} {name(pod)}"
    return Outcome(reasons.STAGE_CRASHED, f"Pod {name(pod)} failed: {said}", advice)


def stuck_message(pod: Json) -> str:
    """Why the pod does not come up, or an empty string."""
    if is_deleting(pod):
        return ""
    scheduled = condition(pod, "PodScheduled")
    if scheduled.get("status") == "False":
        return f"{scheduled.get('reason', 'Unschedulable')}: {scheduled.get('message', '')}".rstrip(": ")
    status = pod.get("status", {})
    for each in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
        waiting = each.get("state", {}).get("waiting", {})
        if waiting.get("reason") in STUCK:
            return f"{waiting['reason']}: {waiting.get('message', each['name'])}"
    return ""
