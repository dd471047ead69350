"""Pods that ended before their stage was done: how they ended, and what is still known when they are gone.

A pod that has ended stays until the Job's controller has counted it: a second and more, even where it was deleted. So
an operator that is there sees how each one ended, and the status remembers the last.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from tuneyard_api import names, reasons
from tuneyard_operator.finetunejob.children import CONTAINER
from tuneyard_operator.machinery.objects import Json, condition, is_condition_true, is_deleting, name, namespace
from tuneyard_operator.pods.termination import Outcome, outcome, pod_outcome, terminated

# A Job fails for these because of its pods; for any other reason it can say itself why.
BY_ITS_PODS: Final = ("BackoffLimitExceeded", "PodFailurePolicy", "MaxFailedIndexesExceeded", "FailedIndexes")
# In the Job controller's words: "Container stage for pod team/x-train-0 failed with exit code 65 matching ..."
NAMED: Final = re.compile(r"pod \S+/(\S+) failed with exit code (\d+)")
MEANING: Final = {
    names.EXIT_BAD_INPUT: "bad data or configuration, or a gate failed",
    names.EXIT_DOES_NOT_FIT: "it does not fit",
}

# Seconds that the Job controller waits after the first pod that ended early, twice as long after each further one, and
# at most: DefaultJobPodFailureBackOff and MaxJobPodFailureBackOff in Kubernetes' pkg/controller/job/job_controller.go.
FIRST_DELAY: Final = 10.0
LONGEST_DELAY: Final = 600.0


def delay(ended: int) -> float:
    """Seconds before a Job of which so many pods have ended early gets its next one, whoever is to blame."""
    return min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** (ended - 1)) if ended else 0.0


class EndedEarly(NamedTuple):
    """One such pod."""

    pod: str
    created_at: str  # by the API server's clock: tells which of a stage's pods was the last
    outcome: Outcome
    taken: bool = False  # through no fault of its own: the Job is not charged

    def wire(self) -> Json:
        said = {"reason": self.outcome.reason, "message": self.outcome.text}
        return {"pod": self.pod, "createdAt": self.created_at, **said}


def remembered(entry: Json) -> EndedEarly:
    """As `wire` has written it."""
    return EndedEarly(entry["pod"], entry["createdAt"], Outcome(entry["reason"], entry.get("message", "")))


def ended_early(pods: Sequence[Json]) -> tuple[EndedEarly, ...]:
    """The last one last. Of several that train together those that lost a peer do not know why; the peer does.

    They are heard only where nobody else will say more: otherwise one loss would be counted as two.
    """
    ended = sorted(filter(None, map(_ended_early, pods)), key=lambda each: each.created_at)
    knowing = [each for each in ended if each.outcome.reason != reasons.PEER_LOST]
    return tuple(knowing or ([] if any(map(lives, pods)) else ended[-1:]))


def _ended_early(pod: Json) -> EndedEarly | None:
    if lives(pod) or _has_succeeded(pod):
        return None
    taken = _was_taken(pod)
    return EndedEarly(name(pod), pod["metadata"]["creationTimestamp"], _said(pod, taken), taken)


def lives(pod: Json) -> bool:
    return not terminated(pod, CONTAINER) and pod.get("status", {}).get("phase") not in ("Succeeded", "Failed")


def _has_succeeded(pod: Json) -> bool:
    return terminated(pod, CONTAINER).get("exitCode") == names.EXIT_DONE or pod["status"].get("phase") == "Succeeded"


def _said(pod: Json, taken: bool) -> Outcome:
    silent = Outcome(reasons.STAGE_CRASHED, f"Pod {name(pod)} ended before its container began")
    said = outcome(pod, CONTAINER) or pod_outcome(pod) or silent
    if not taken or said.reason != reasons.STAGE_CRASHED:
        return said
    why = condition(pod, "DisruptionTarget").get("message", "")
    return Outcome(reasons.PREEMPTED, f"Pod {name(pod)} was taken away: {why}".rstrip(": "))


def _was_taken(pod: Json) -> bool:
    """By the rules of FAILURE_POLICY, so that we count as the Job's controller does."""
    code = terminated(pod, CONTAINER).get("exitCode")
    return code == names.EXIT_TRY_AGAIN or (code not in MEANING and is_condition_true(pod, "DisruptionTarget"))


def lost(pods: Iterable[Json]) -> tuple[str, ...]:
    """Pods that were taken away, or are about to be; and not those that only lost such a one."""
    unfinished = (pod for pod in pods if terminated(pod, CONTAINER).get("exitCode") != names.EXIT_DONE)
    taken = (pod for pod in unfinished if is_deleting(pod) or _was_taken(pod))
    return tuple(
        name(pod) for pod in taken if (said := outcome(pod, CONTAINER)) is None or said.reason != reasons.PEER_LOST
    )


def cause(job: Json, last: EndedEarly | None) -> Outcome:
    """Why a Job has failed, where `last` is its last pod that was seen to end early."""
    failed = condition(job, "Failed")
    why, words = failed.get("reason", ""), failed.get("message", "")
    if why not in BY_ITS_PODS:
        return Outcome(reasons.STAGE_CRASHED, f"Job {name(job)} failed: {why}: {words}".rstrip(": "))
    named = NAMED.search(words)
    if last and (named is None or named[1] == last.pod):
        return last.outcome
    return _lost(job, named[1], int(named[2])) if named else _lost(job)


def _lost(job: Json, pod: str = "", code: int | None = None) -> Outcome:
    """Nobody saw how its pods ended."""
    failed = condition(job, "Failed")
    message = f"Job {name(job)} failed: {failed['reason']}: {failed.get('message', '')}".rstrip(": ")
    meaning = f", which means: {MEANING[code]}" if code in MEANING else ""
    events = f"kubectl get events -n {namespace(job)}" + (f" --field-selector involvedObject.name={pod}" if pod else "")
    return Outcome(
        reasons.REASON_LOST,
        f"{message}{meaning}. Its pods are gone, and nobody saw what they said",
        f"See {events} and, where logs are collected, the log of {pod or 'its pods'}. To see the reason again, delete "
        "the FineTuneJob and apply it again: what was done before is taken over.",
    )
