"""Pods that ended before their stage was done: how they ended, and what is still known when they are gone.

A pod that has ended stays until the Job controller has counted it: for a second or longer, even where it was deleted.
So a running operator sees how each pod ended, and the status remembers the last one.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from tuneyard_api import names, reasons
from tuneyard_api.contracts.termination import Termination
from tuneyard_api.kinds.finetunejob_status import LastFailure
from tuneyard_operator.finetunejob.children import CONTAINER
from tuneyard_operator.machinery.objects import Json, condition, is_condition_true, is_deleting, name, namespace
from tuneyard_operator.pods.termination import pod_failure, terminated, termination

# The reasons of a Job's condition Failed that follow from its pods. Any other reason explains the failure by itself.
CAUSED_BY_PODS: Final = ("BackoffLimitExceeded", "PodFailurePolicy", "MaxFailedIndexesExceeded", "FailedIndexes")
# The Job controller writes "Container stage for pod team/x-train-0 failed with exit code 65 matching ..."
FAILED_POD: Final = re.compile(r"pod \S+/(\S+) failed with exit code (\d+)")
MEANING: Final = {
    names.EXIT_BAD_INPUT: "bad data or configuration, or a gate failed",
    names.EXIT_DOES_NOT_FIT: "it does not fit",
}

# Seconds that the Job controller waits after the first pod that ended early, twice as long after each further one, and
# at most: DefaultJobPodFailureBackOff and MaxJobPodFailureBackOff in Kubernetes' pkg/controller/job/job_controller.go.
FIRST_DELAY: Final = 10.0
LONGEST_DELAY: Final = 600.0


def backoff(ended: int) -> float:
    """Seconds before a Job of which so many pods have ended early gets its next one, whatever the cause."""
    return min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** (ended - 1)) if ended else 0.0


class EndedEarly(NamedTuple):
    """One pod that ended before its stage was done."""

    pod: str
    created_at: str  # by the API server's clock; it orders the pods of a stage
    termination: Termination
    is_preempted: bool = False  # the Job is not charged for it

    def status(self) -> LastFailure:
        return LastFailure(
            pod=self.pod,
            created_at=self.created_at,
            reason=self.termination.reason,
            message=self.termination.text,
        )


def from_status(failure: LastFailure) -> EndedEarly:
    """Reads what EndedEarly.status wrote."""
    return EndedEarly(failure.pod, failure.created_at, Termination(reason=failure.reason, message=failure.message))


def ended_early(pods: Sequence[Json]) -> tuple[EndedEarly, ...]:
    """The pods that ended early, in the order in which they were created.

    Of several pods that train together, those that lost a peer do not know the cause; the peer does. They count only
    where no other pod will say more: otherwise one disruption would be counted twice.
    """
    ended = sorted(filter(None, map(_ended_early, pods)), key=lambda pod: pod.created_at)
    knowing = [pod for pod in ended if pod.termination.reason != reasons.PEER_LOST]
    return tuple(knowing or ([] if any(map(is_active, pods)) else ended[-1:]))


def _ended_early(pod: Json) -> EndedEarly | None:
    if is_active(pod) or _has_succeeded(pod):
        return None
    preempted = _is_preempted(pod)
    return EndedEarly(name(pod), pod["metadata"]["creationTimestamp"], _termination(pod, preempted), preempted)


def is_active(pod: Json) -> bool:
    """Whether the pod has not ended."""
    return not terminated(pod, CONTAINER) and pod.get("status", {}).get("phase") not in ("Succeeded", "Failed")


def _has_succeeded(pod: Json) -> bool:
    return terminated(pod, CONTAINER).get("exitCode") == names.EXIT_DONE or pod["status"].get("phase") == "Succeeded"


def _termination(pod: Json, preempted: bool) -> Termination:
    unknown = Termination(reason=reasons.STAGE_CRASHED, message=f"Pod {name(pod)} ended before its container started")
    found = termination(pod, CONTAINER) or pod_failure(pod) or unknown
    if not preempted or found.reason != reasons.STAGE_CRASHED:
        return found
    why = condition(pod, "DisruptionTarget").get("message", "")
    return Termination(reason=reasons.PREEMPTED, message=f"Pod {name(pod)} was disrupted: {why}".rstrip(": "))


def _is_preempted(pod: Json) -> bool:
    """By the rules of FAILURE_POLICY, so that the operator counts as the Job controller does."""
    code = terminated(pod, CONTAINER).get("exitCode")
    return code == names.EXIT_TRY_AGAIN or (code not in MEANING and is_condition_true(pod, "DisruptionTarget"))


def preempted_pods(pods: Iterable[Json]) -> tuple[str, ...]:
    """Pods that were preempted or are being deleted; not those that ended only because they lost such a peer."""
    unfinished = (pod for pod in pods if terminated(pod, CONTAINER).get("exitCode") != names.EXIT_DONE)
    preempted = (pod for pod in unfinished if is_deleting(pod) or _is_preempted(pod))
    return tuple(
        name(pod)
        for pod in preempted
        if (ended := termination(pod, CONTAINER)) is None or ended.reason != reasons.PEER_LOST
    )


def cause(job: Json, last: EndedEarly | None) -> Termination:
    """Why a Job has failed; `last` is its last pod that was seen to end early."""
    failed = condition(job, "Failed")
    reason, message = failed.get("reason", ""), failed.get("message", "")
    if reason not in CAUSED_BY_PODS:
        text = f"Job {name(job)} failed: {reason}: {message}".rstrip(": ")
        return Termination(reason=reasons.STAGE_CRASHED, message=text)
    named = FAILED_POD.search(message)
    if last and (named is None or named[1] == last.pod):
        return last.termination
    return _unknown_cause(job, named[1], int(named[2])) if named else _unknown_cause(job)


def _unknown_cause(job: Json, pod: str = "", code: int | None = None) -> Termination:
    """The pods of a failed Job are gone, and no operator saw how they ended."""
    failed = condition(job, "Failed")
    message = f"Job {name(job)} failed: {failed['reason']}: {failed.get('message', '')}".rstrip(": ")
    meaning = f", which means: {MEANING[code]}" if code in MEANING else ""
    events = f"kubectl get events -n {namespace(job)}" + (f" --field-selector involvedObject.name={pod}" if pod else "")
    return Termination(
        reason=reasons.REASON_LOST,
        message=f"{message}{meaning}. Its pods are gone, and no operator saw how they ended",
        advice=f"See {events} and, where logs are collected, the log of {pod or 'its pods'}. It runs again, and "
        "finished stages are reused, when you try it again",
    )
