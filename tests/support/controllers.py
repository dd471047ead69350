"""Kubernetes' own controllers over a simulated cluster. Each method is one step of a controller."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from support import builders
from support.kubelet import is_running
from tuneyard_api import names, reasons
from tuneyard_operator.finetunejob.children import CONTAINER
from tuneyard_operator.machinery.conditions import parse_time, timestamp
from tuneyard_operator.machinery.objects import (
    Json,
    condition,
    is_condition_true,
    is_deleting,
    is_subset,
    name,
    namespace,
    owned_by,
    uid,
)
from tuneyard_operator.modelserver.revisions import ROLLED_OUT
from tuneyard_operator.pods.termination import terminated

if TYPE_CHECKING:
    from support.cluster import SimulatedCluster

# A controller that has created or deleted pods waits so long for its watch to show that.
EXPECTATION_TIMEOUT: Final = timedelta(minutes=5)


def exit_code(pod: Json) -> int | None:
    """The exit code of a stage's container."""
    code: int | None = terminated(pod, CONTAINER).get("exitCode")
    return code


def has_failed(pod: Json) -> bool:
    return bool(pod["status"].get("phase") == "Failed")


class JobController:
    """Creates the pods of Jobs, and counts how they end, by podFailurePolicy, backoffLimit and completions."""

    def __init__(self, cluster: SimulatedCluster) -> None:
        self._cluster = cluster
        self._stalled: set[str] = set()  # uids of Jobs for which it expects a pod that has come and gone
        self.charged: dict[str, Json] = {}  # pods that count as failures of their Jobs, by uid

    def unfinished(self) -> list[Json]:
        return [job for job in self._cluster.of_kind("Job") if not is_deleting(job) and not self._is_finished(job)]

    def lacking_pods(self) -> list[Json]:
        """Jobs for which it creates pods now."""
        return [job for job in self.unfinished() if uid(job) not in self._stalled and self._missing(job)]

    def create_pods(self, job: Json) -> list[Json]:
        self._start(job)
        indexed = job["spec"].get("completionMode") == "Indexed"
        return [self.create_pod(job, index if indexed else None) for index in self._missing(job)]

    def create_pod(self, job: Json, index: int | None = None) -> Json:
        return self._cluster.create(builders.pod(job, self._cluster.number(), index))

    def stall(self, job: Json) -> None:
        """It expects a pod that was deleted before its watch showed it: no pod will come, and no event."""
        self._stalled.add(uid(job))
        self._start(job)

    def sync(self, job: Json) -> None:
        """Counts the pods that have ended."""
        for pod in self._cluster.pods_of(job):
            if has_failed(pod) and _action(job, pod) == "Count":
                self.charged[uid(pod)] = pod
        spec, charged = job["spec"], sum(owned_by(pod, uid(job)) for pod in self.charged.values())
        status = job.setdefault("status", {})
        status["failed"] = max(status.get("failed", 0), charged)
        if self._is_finished(job):
            return
        if len(self._succeeded(job)) == spec["completions"]:
            self.complete(job)
        elif message := self._final_failure(job):
            self.fail(job, "PodFailurePolicy", message)
        elif status["failed"] > spec.get("backoffLimit", spec.get("backoffLimitPerIndex")):
            self.fail(job)

    def complete(self, job: Json, **status: int) -> None:
        self._finish(job, "Complete", "CompletionsReached", "Reached expected number of succeeded pods", status)
        job["status"]["completionTime"] = timestamp(self._cluster.now)

    def fail(self, job: Json, reason: str = "BackoffLimitExceeded", message: str = "", **status: int) -> None:
        """With the condition that the Job controller of Kubernetes 1.34 writes."""
        self._finish(job, "Failed", reason, message or "Job has reached the specified backoff limit", status)

    def fail_by_policy(self, job: Json, pod: str, code: int, **status: int) -> None:
        self.fail(job, "PodFailurePolicy", _policy_message(job, pod, code), **status)

    def has_decided_pod(self, job: Json) -> bool:
        """A pod has ended the Job, whether the Job's status shows it yet or not."""
        return bool(self._succeeded(job)) or bool(self._final_failure(job))

    def _is_finished(self, job: Json) -> bool:
        return is_condition_true(job, "Complete") or is_condition_true(job, "Failed")

    def _missing(self, job: Json) -> list[int]:
        """The indexes that lack a pod; of a Job that is not Indexed, 0."""
        if job["spec"].get("suspend") or self.has_decided_pod(job):
            return []
        present = {_index(pod) for pod in self._cluster.pods_of(job) if not has_failed(pod)}
        return [index for index in range(job["spec"]["completions"]) if index not in present]

    def _succeeded(self, job: Json) -> set[int]:
        return {_index(pod) for pod in self._cluster.pods_of(job) if exit_code(pod) == 0}

    def _final_failure(self, job: Json) -> str:
        """What the controller says of a pod that a rule FailJob applies to; empty where there is none."""
        failed = [pod for pod in self._cluster.pods_of(job) if has_failed(pod) and _action(job, pod) == "FailJob"]
        return _policy_message(job, name(failed[0]), exit_code(failed[0]) or 0) if failed else ""

    def _start(self, job: Json) -> None:
        job.setdefault("status", {}).setdefault("startTime", timestamp(self._cluster.now))

    def _finish(self, job: Json, kind: str, reason: str, message: str, status: dict[str, int]) -> None:
        self._start(job)
        at = timestamp(self._cluster.now)
        ended = {"type": kind, "status": "True", "lastTransitionTime": at, "reason": reason, "message": message}
        job["status"] |= {"conditions": [ended], **status}


def _index(pod: Json) -> int:
    return int(pod["metadata"]["annotations"].get(names.ANNOTATION_INDEX, 0))


def _action(job: Json, pod: Json) -> str:
    """What podFailurePolicy does with a pod that has ended."""
    code = exit_code(pod)
    for rule in job["spec"]["podFailurePolicy"]["rules"]:
        is_listed = code in rule.get("onExitCodes", {}).get("values", [])
        if is_listed or any(is_condition_true(pod, item["type"]) for item in rule.get("onPodConditions", [])):
            return str(rule["action"])
    return "Count"


def _policy_message(job: Json, pod: str, code: int) -> str:
    place = f"{namespace(job)}/{pod}"
    return f"Container stage for pod {place} failed with exit code {code} matching FailJob rule at index 0"


class DeploymentController:
    """Creates and deletes the pods of Deployments, and counts them."""

    def __init__(self, cluster: SimulatedCluster) -> None:
        self._cluster = cluster
        # Deployments whose pods it expects although they are gone: since when, and the object at that time, by uid.
        self._stalled: dict[str, tuple[datetime, Json]] = {}
        self.denial = ""  # why the API server takes no pods
        self.quota: int | None = None  # pods that a ResourceQuota allows

    def all(self) -> list[Json]:
        return [item for item in self._cluster.of_kind("Deployment") if not is_deleting(item)]

    def pods_of(self, deployment: Json) -> list[Json]:
        return [pod for pod in self._cluster.pods_of(deployment) if not is_deleting(pod)]

    def sync(self, deployment: Json) -> None:
        self._cluster.update(deployment)
        wanted = deployment["spec"]["replicas"]
        if not self._is_stalled(deployment):
            for _ in range(wanted - len(self.pods_of(deployment))):
                if not self._denied():
                    self._cluster.create(builders.pod(deployment, self._cluster.number()))
        own = sorted(self.pods_of(deployment), key=lambda pod: not is_condition_true(pod, "Ready"))
        for pod in own[wanted:]:
            self._cluster.delete(pod)
        counts = self._counts(deployment)
        rollout = self._rollout(deployment, done=counts["readyReplicas"] == wanted)
        failure = self._failure(deployment, wanted)
        deployment["status"] = counts | {"conditions": [rollout, *failure]}

    def _denied(self) -> str:
        """What the API server says of one more pod; empty where it takes it."""
        used = len(self._cluster.of_kind("Pod"))
        if self.quota is not None and used >= self.quota:
            return (
                f'pods "x" is forbidden: exceeded quota: q, requested: pods=1, used: pods={used}, limited: pods={used}'
            )
        return self.denial

    def _failure(self, deployment: Json, wanted: int) -> list[Json]:
        if len(self.pods_of(deployment)) >= wanted or not (message := self._denied()):
            return []
        at = condition(deployment, "ReplicaFailure").get("lastTransitionTime", timestamp(self._cluster.now))
        failed = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": message}
        return [failed | {"lastTransitionTime": at}]

    def stall(self, deployment: Json) -> None:
        """Its pods are deleted. Its ReplicaSet expects them for five minutes; later only a change triggers it."""
        for pod in self.pods_of(deployment):
            self._cluster.delete(pod)
        self._stalled[uid(deployment)] = (self._cluster.now, _desired(deployment))

    def has_work(self, deployment: Json) -> bool:
        short = len(self.pods_of(deployment)) != int(deployment["spec"]["replicas"])
        uncounted = not is_subset(deployment.get("status"), self._counts(deployment))
        return uncounted or (short and uid(deployment) not in self._stalled)

    def _is_stalled(self, deployment: Json) -> bool:
        if uid(deployment) not in self._stalled:
            return False
        since, before = self._stalled[uid(deployment)]
        if _desired(deployment) == before:
            return True
        if self._cluster.now - since > EXPECTATION_TIMEOUT:
            del self._stalled[uid(deployment)]
            return False
        self._stalled[uid(deployment)] = (since, _desired(deployment))
        return True

    def _counts(self, deployment: Json) -> Json:
        pods = self.pods_of(deployment)
        ready = sum(is_condition_true(pod, "Ready") for pod in pods)
        generation = deployment["metadata"]["generation"]
        return {
            "observedGeneration": generation,
            "replicas": len(pods),
            "readyReplicas": ready,
            "availableReplicas": ready,
        }

    def _rollout(self, deployment: Json, *, done: bool) -> Json:
        """A Deployment that was complete once does not miss its deadline when it loses pods."""
        before: Json = condition(deployment, "Progressing")
        if done or before.get("reason") == ROLLED_OUT:
            return {"type": "Progressing", "status": "True", "reason": ROLLED_OUT}
        since = before.get("since", timestamp(self._cluster.now))
        late = (self._cluster.now - parse_time(since)).total_seconds() > deployment["spec"]["progressDeadlineSeconds"]
        found = ("False", reasons.PROGRESS_DEADLINE_EXCEEDED) if late else ("True", "ReplicaSetUpdated")
        return {"type": "Progressing", "status": found[0], "reason": found[1], "since": since}


def _desired(deployment: Json) -> Json:
    """What a change of triggers the controller."""
    return {"spec": dict(deployment["spec"]), "annotations": dict(deployment["metadata"]["annotations"])}


class GarbageCollector:
    """Deletes what belongs to deleted owners. A test that wants it to miss a deletion removes the owner by itself."""

    def __init__(self, cluster: SimulatedCluster) -> None:
        self._cluster = cluster

    def delete_dependents(self, owner: Json) -> None:
        """Its children are gone, and their pods are told to end."""
        for child in [item for item in self._cluster.objects.values() if owned_by(item, uid(owner))]:
            self._cluster.delete(child)
            if child["kind"] in ("Job", "Deployment"):
                self._cluster.remove(child)

    def finish(self, obj: Json) -> None:
        """Ends a deletion: the pods of the object are gone, and then it is too."""
        for item in (*self._cluster.pods_of(obj), obj):
            self._cluster.remove(item)

    def collect(self) -> None:
        """Ends all deletions. A pod of a deleted owner is gone when it has ended."""
        for obj in [item for item in self._cluster.objects.values() if is_deleting(item) and item["kind"] != "Pod"]:
            self.finish(obj)
        for pod in [item for item in self._cluster.of_kind("Pod") if is_deleting(item) and not is_running(item)]:
            self._cluster.remove(pod)
