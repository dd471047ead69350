"""Why a pod does not start, in the scheduler's or the kubelet's words, and what its user can do about it."""

import re
from collections.abc import Iterator
from typing import Final

from tuneyard_api import reasons
from tuneyard_operator.machinery.objects import Json, condition, is_deleting
from tuneyard_operator.pods.termination import container_statuses

IMAGE_ADVICE: Final = (
    "Correct the image in the chart's values images; a private registry needs imagePullSecrets there, and that Secret "
    "in this namespace."
)
CREATE_ADVICE: Final = (
    "Create what is missing in this namespace, or name another in the spec: the pod starts by itself."
)
CRASH_ADVICE: Final = "See the log of its last start: kubectl logs --previous."
# Reasons of a waiting container that do not pass by themselves soon.
STUCK: Final = {
    "ImagePullBackOff": IMAGE_ADVICE,
    "ErrImagePull": IMAGE_ADVICE,
    "ErrImageNeverPull": IMAGE_ADVICE,
    "InvalidImageName": IMAGE_ADVICE,
    "CreateContainerConfigError": CREATE_ADVICE,
    "CreateContainerError": CRASH_ADVICE,
    "RunContainerError": CRASH_ADVICE,
    "CrashLoopBackOff": CRASH_ADVICE,
}
# A pod that fits nowhere because others use what it asks for; any other cause does not pass when they stop.
NO_ROOM: Final = re.compile(r"Insufficient |Too many pods|didn't have free ports")
# What the scheduler finds against nodes (pkg/scheduler/framework/plugins), with advice; {0}: what the pattern found.
SCHEDULING: Final = (
    (
        re.compile(r"Insufficient ([\w.-]+/[\w.-]*\w)"),
        "Wait until a {0} is free or add a node with some; if no node has any (kubectl describe nodes), correct "
        "spec.resources.gpuResourceName or spec.resources.gpus.",
    ),
    (re.compile(r"Insufficient ([\w-]+)(?![\w./-]*/)"), "Lower {0} in spec.resources, or add a node with more {0}."),
    (re.compile(r"Too many (pods)"), "Add a node, or stop other {0}."),
    (
        re.compile(r"untolerated taint(?:\(s\))? \{(?!node(?:-role)?\.kubernetes\.io/)([^:}]+)"),
        "Add a toleration with the key {0} to spec.resources.tolerations, if the pod may run on those nodes.",
    ),
    (re.compile(r"untolerated taint(?:\(s\))? \{(node\.kubernetes\.io/[^:}]+)"), "Mend the nodes with the taint {0}."),
    (
        re.compile(r"didn't match Pod's (node affinity/selector)"),
        "Correct spec.resources.nodeSelector or spec.resources.affinity: kubectl get nodes --show-labels.",
    ),
    (
        re.compile(r"didn't match pod (topology spread constraints|anti-affinity rules|affinity rules)"),
        "Correct the {0} in spec.resources.",
    ),
    (
        re.compile(r"persistentvolumeclaim \"([^\"]+)\" not found"),
        "Create the PersistentVolumeClaim {0}, or see what adds it to the pod: tuneyard's pods have none.",
    ),
)
REASON: Final = re.compile(r"([A-Z][A-Za-z]+): ")


def reason_of(message: str, otherwise: str = reasons.WAITING) -> str:
    """The word that a message begins with, as `stuck_message` writes it."""
    found = REASON.match(message)
    return found[1] if found else otherwise


def lacks_room(pod: Json) -> bool:
    """Whether the scheduler would take the pod if others used less."""
    scheduled = condition(pod, "PodScheduled")
    return scheduled.get("status") == "False" and NO_ROOM.search(scheduled.get("message", "")) is not None


def stuck_message(pod: Json) -> str:
    """Why the pod does not start, and what to do; an empty string where nothing keeps it from that."""
    if is_deleting(pod):
        return ""
    scheduled = condition(pod, "PodScheduled")
    if scheduled.get("status") == "False":
        message = scheduled.get("message", "")
        return _advised(scheduled.get("reason", "Unschedulable"), message, " ".join(_scheduling_advice(message)))
    for status in container_statuses(pod):
        waiting = status.get("state", {}).get("waiting", {})
        if advice := STUCK.get(waiting.get("reason")):
            return _advised(waiting["reason"], waiting.get("message", status["name"]), advice)
    return ""


def with_advice(warning: str) -> str:
    """The last warning event about a pod, as "reason: message", and what to do where that is known."""
    is_missing = warning.startswith("FailedMount: ") and re.search(r"not found|non-existent", warning)
    return _followed(warning, CREATE_ADVICE) if is_missing else warning


def _scheduling_advice(message: str) -> Iterator[str]:
    # What follows tells why nothing is preempted.
    causes = message.partition(" preemption: ")[0]
    for pattern, advice in SCHEDULING:
        for found in dict.fromkeys(pattern.findall(causes)):
            yield advice.format(found)


def _advised(reason: str, message: str, advice: str) -> str:
    text = f"{reason}: {message}".rstrip(": ")
    return _followed(text, advice) if advice else text


def _followed(text: str, advice: str) -> str:
    return f"{text.rstrip('. ')}. {advice}"
