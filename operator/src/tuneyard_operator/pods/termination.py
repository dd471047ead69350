"""How a container ended: the termination message of tuneyard's own programs, or what else the kubelet knows."""

from collections.abc import Mapping
from typing import Final

from tuneyard_api import reasons
from tuneyard_api.contracts.termination import Termination
from tuneyard_operator.machinery.objects import Json, name, namespace
from tuneyard_operator.pods.words import in_user_words

# The fields of a spec that set the resources of a container; of any other container it is spec.resources.
RESOURCES: Final[Mapping[str, str]] = {"fetch": "spec.containers.fetch", "proxy": "spec.containers.proxy"}

# What the kubelet writes when it evicts a pod for its use of disk.
DISK: Final = ("ephemeral-storage", "ephemeral local storage", "EmptyDir volume")
DISK_ADVICE: Final = (
    "Raise spec.resources.limits.ephemeral-storage, or use nodes with more disk; docs/sizing.md tells how much is "
    "needed."
)


def container_statuses(pod: Json) -> list[Json]:
    """Of all containers, the init containers first."""
    status = pod.get("status", {})
    return [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]


def container_status(pod: Json, container: str) -> Json:
    """The status of the container with that name; an empty dict where it has none yet."""
    return next((status for status in container_statuses(pod) if status["name"] == container), {})


def terminated(pod: Json, container: str, *, last: bool = False) -> Json:
    """The container's state `terminated`; with `last` that of its previous start, where it runs or waits again."""
    status = container_status(pod, container)
    state: Json = status.get("state", {}).get("terminated", {})
    return state or (status.get("lastState", {}).get("terminated", {}) if last else {})


def own_termination(pod: Json, container: str) -> Termination | None:
    """The document that the container wrote; None where it has not ended, or wrote none."""
    return _parse(pod, terminated(pod, container))


def termination(pod: Json, container: str, *, last: bool = False) -> Termination | None:
    """How the container ended, in its own words or else in the kubelet's; None where it has not ended."""
    ended = terminated(pod, container, last=last)
    if not ended:
        return None
    return _parse(pod, ended) or _of_kubelet(pod, container, ended)


def _parse(pod: Json, ended: Json) -> Termination | None:
    """The document of tuneyard's own program, which names paths in its pod: its reader does not know them."""
    found = Termination.parse(ended.get("message", ""))
    if found is None:
        return None
    words = {"message": in_user_words(found.message, pod), "advice": in_user_words(found.advice, pod)}
    return found.model_copy(update=words)


def _of_kubelet(pod: Json, container: str, ended: Json) -> Termination:
    if ended.get("exitCode") == 0:
        return Termination(reason=reasons.COMPLETED)
    if ended.get("reason") == reasons.OOM_KILLED:
        return Termination(
            reason=reasons.OOM_KILLED,
            message=f"Container {container} of pod {name(pod)} was killed because it used more memory than its limit.",
            advice=f"Raise {RESOURCES.get(container, 'spec.resources')}.limits.memory"
            + (", or on a CPU lower training.microBatchSize or training.maxLength." if container == "stage" else "."),
        )
    if failure := pod_failure(pod):
        return failure
    lines = [line for line in ended.get("message", "").splitlines() if line.strip()]
    tail = f" Its last line: {lines[-1].strip()}" if lines else ""
    return Termination(
        reason=reasons.STAGE_CRASHED,
        message=f"Container {container} of pod {name(pod)} exited with {ended.get('exitCode')}.{tail}",
        advice=f"See kubectl logs -n {namespace(pod)} {name(pod)} -c {container}",
    )


def pod_failure(pod: Json) -> Termination | None:
    """Why a pod failed as a whole: it was evicted, or its node rejected it before a container started."""
    status = pod.get("status", {})
    if status.get("phase") != "Failed" or not status.get("reason"):
        return None
    reason = f"{status['reason']}: {status.get('message', '')}".rstrip(": ")
    message = f"Pod {name(pod)} failed: {reason}"
    if any(word in reason for word in DISK):
        return Termination(reason=reasons.DISK_FULL, message=message, advice=DISK_ADVICE)
    advice = f"See kubectl describe pod -n {namespace(pod)} {name(pod)}"
    return Termination(reason=reasons.STAGE_CRASHED, message=message, advice=advice)
