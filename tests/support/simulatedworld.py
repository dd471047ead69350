"""What surrounds a FineTuneJob: Job controller, kubelet, Kueue, store and users, one move at a time."""

import json
from copy import deepcopy
from datetime import timedelta
from itertools import count
from typing import Any, Final

from support.operatorbuilders import DATASET, NOW, PUBLISHED, SETTINGS, fine_tune_job, termination
from tuneyard_api import names
from tuneyard_api.kinds.finetunejob import CHANGEABLE, RESTING
from tuneyard_api.names import Stage
from tuneyard_api.stages import STAGES
from tuneyard_operator.finetunejob.children import FAILURE_POLICY
from tuneyard_operator.finetunejob.observe import World
from tuneyard_operator.finetunejob.plan import plan
from tuneyard_operator.machinery.conditions import timestamp
from tuneyard_operator.machinery.objects import (
    Json,
    condition,
    hash8,
    is_condition_true,
    is_deleting,
    label,
    name,
    owned_by,
    uid,
)
from tuneyard_operator.machinery.plan import Plan, Rejection

FINAL: Final = set(FAILURE_POLICY[0]["onExitCodes"]["values"])


class SimulatedWorld:
    """The objects of the cluster, and what can happen to them. `changed`: there is an event for the operator."""

    def __init__(self, spec: Json) -> None:
        self._numbers = count()
        self.jobs: list[Json] = []
        self.pods: list[Json] = []
        self.store: set[str] = set()  # digests of stages that are committed
        self.chain: tuple[Stage, ...] = tuple(STAGES)
        self.forgotten: set[str] = set()  # uids of Jobs whose controller expects a pod that is gone
        self.now = self.written_at = self.event_at = NOW
        self.apply(spec)

    # The user.

    def apply(self, spec: Json) -> None:
        self.job: Json | None = fine_tune_job(**spec)
        self.job["metadata"] |= {"uid": f"uid-{next(self._numbers)}"}
        self.changed = True

    def may_change(self, spec: Json) -> bool:
        """Whether the CRD's rule allows the change."""
        assert self.job
        phase = self.job.get("status", {}).get("phase", "Pending")
        return phase in RESTING or all(field in CHANGEABLE for field in spec)

    def change(self, spec: Json) -> None:
        assert self.job
        assert self.may_change(spec)
        wanted = {field: value for field, value in (self.job["spec"] | spec).items() if value is not None}
        if wanted != self.job["spec"]:
            self.job["metadata"]["generation"] += 1
        self.job["spec"] = wanted
        self.changed = True

    def delete(self, *, collected: bool = True) -> None:
        """In the background: Jobs are deleted at once, pods when they end; or the garbage collector misses them all."""
        assert self.job
        self.job, self.changed = None, True
        if collected:
            self.jobs = []
            for pod in self.pods:
                self.request_deletion(pod)

    # The operator.

    def observed(self, rejection: Rejection | None = None) -> World:
        assert self.job
        self.event_at = self.now if self.changed else self.event_at
        since_write, idle = ((self.now - at).total_seconds() for at in (self.written_at, self.event_at))
        return World(self.job, self.jobs, self.pods, since_write=since_write, idle=idle, rejection=rejection)

    def plan(self, rejection: Rejection | None = None) -> Plan:
        return plan(self.observed(rejection), SETTINGS, self.now)

    def act(self, step: Plan) -> None:
        """Does what the reconciler does; deletions are in the foreground."""
        assert self.job
        for obj in step.delete:
            if obj is self.job:
                self.delete()
                return
            self.request_deletion(obj)
        for job in deepcopy(step.create):
            job["metadata"]["uid"] = f"uid-{next(self._numbers)}"
            self.jobs.append(job)
            self.changed = True
        self.write(step)

    def write(self, step: Plan) -> None:
        assert self.job
        status = json.loads(json.dumps(step.status))
        if status != self.job.get("status"):
            self.changed, self.written_at = True, self.now
        self.job["status"] = status

    # The Job controller and the kubelet.

    def startable(self) -> list[Json]:
        """Jobs whose controller would create a pod."""
        return [
            job
            for job in self.unfinished()
            if not job["spec"].get("suspend") and not self._live(job) and uid(job) not in self.forgotten
        ]

    def forget(self, job: Json) -> None:
        """Its controller creates no pod any more, and causes no event."""
        self.forgotten.add(uid(job))
        job.setdefault("status", {}).setdefault("startTime", timestamp(self.now))
        self.changed = True

    def unfinished(self) -> list[Json]:
        over = ("Complete", "Failed")
        return [
            job for job in self.jobs if not is_deleting(job) and not any(is_condition_true(job, kind) for kind in over)
        ]

    def start_pod(self, job: Json) -> None:
        owner = {"kind": "Job", "name": name(job), "uid": uid(job), "controller": True}
        number = next(self._numbers)
        self.wait(1)  # the controller waits at least 10 s
        metadata: Json = {
            "name": f"{name(job)}-{number}",
            "namespace": "team",
            "uid": f"uid-{number}",
            "creationTimestamp": timestamp(self.now),
            "labels": job["spec"]["template"]["metadata"]["labels"],
            "ownerReferences": [owner],
        }
        self.pods.append({"metadata": metadata, "status": self._container("running", {}) | {"podIP": "10.0.0.9"}})
        job.setdefault("status", {}).setdefault("startTime", timestamp(self.now))
        self.changed = True

    def running(self) -> list[Json]:
        return [pod for pod in self.pods if "running" in pod["status"]["containerStatuses"][0]["state"]]

    def end_pod(self, pod: Json, code: int, *, readable: bool = True) -> None:
        """With the termination message of its stage; `readable`: its report is of the operator's version."""
        message = (
            termination("Completed", result=self._result(pod) if readable else {"other": 1})
            if code == 0
            else termination("Why")
        )
        ended = {"exitCode": code, "message": message, "finishedAt": timestamp(self.now)}
        pod["status"] |= self._container("terminated", ended) | {"phase": "Failed" if code else "Succeeded"}
        self.changed = True

    def settle(self, job: Json) -> None:
        """The Job controller counts the pods that have ended."""
        codes = [
            pod["status"]["containerStatuses"][0]["state"].get("terminated", {}).get("exitCode")
            for pod in self.pods
            if owned_by(pod, uid(job))
        ]
        before = deepcopy(job)
        status = job.setdefault("status", {})
        status["failed"] = max(status.get("failed", 0), codes.count(1))
        if 0 in codes:
            status.setdefault("completionTime", timestamp(self.now))
            self._set_condition(job, "Complete")
        elif FINAL & set(codes) or status["failed"] > job["spec"]["backoffLimit"]:
            self._set_condition(job, "Failed")
        self.changed |= job != before

    def vanish(self, pod: Json) -> None:
        self.pods.remove(pod)
        self.changed = True

    def collect(self, job: Json) -> None:
        """The end of a deletion in the foreground."""
        self.pods = [pod for pod in self.pods if not owned_by(pod, uid(job))]
        self.jobs.remove(job)
        self.changed = True

    # Kueue, and other users.

    def queued(self) -> list[Json]:
        return [job for job in self.unfinished() if label(job, names.LABEL_QUEUE)]

    def admit(self, job: Json) -> None:
        job["spec"]["suspend"] = False
        self.changed = True

    def preempt(self, job: Json) -> None:
        """Pods of a suspended Job get SIGTERM."""
        job["spec"]["suspend"] = True
        for pod in self.pods:
            if owned_by(pod, uid(job)) and pod in self.running():
                self.request_deletion(pod)
                self.end_pod(pod, names.EXIT_TRY_AGAIN)
        self.changed = True

    def orphan(self, job: Json) -> None:
        """Someone deletes a Job and keeps its pods."""
        self.jobs.remove(job)
        for pod in self.pods:
            if owned_by(pod, uid(job)):
                pod["metadata"]["ownerReferences"] = []
        self.changed = True

    def request_deletion(self, obj: Json) -> None:
        obj["metadata"].setdefault("deletionTimestamp", timestamp(self.now))
        self.changed = True

    def _live(self, job: Json) -> bool:
        return any(owned_by(pod, uid(job)) and pod in self.running() for pod in self.pods) or self.decided(job)

    def decided(self, job: Json) -> bool:
        """A pod has ended for good, which the Job controller has not observed yet."""
        own = [pod["status"]["containerStatuses"][0]["state"] for pod in self.pods if owned_by(pod, uid(job))]
        return any(state.get("terminated", {}).get("exitCode") in {0, *FINAL} for state in own)

    def _set_condition(self, job: Json, kind: str) -> None:
        if not condition(job, kind):
            at = {"lastTransitionTime": timestamp(self.now), "reason": "Controller", "message": ""}
            job["status"].setdefault("conditions", []).append({"type": kind, "status": "True", **at})

    @staticmethod
    def _container(state: str, content: Json) -> Json:
        return {"phase": "Running", "containerStatuses": [{"name": "stage", "state": {state: content}}]}

    # The store.

    def digests(self) -> dict[str, str]:
        """What prepare computes for the spec."""
        assert self.job
        training = self.job["spec"].get("training")
        return {stage: (hash8([stage, None if stage == "prepare" else training]) * 8) for stage in self.chain}

    def _result(self, pod: Json) -> Json | None:
        stage = label(pod, names.LABEL_STAGE)
        digests = self.digests() if self.job else {}
        self.store.add(digests.get(stage, ""))
        if stage == "publish":
            return PUBLISHED if "export" in self.chain else {"artifacts": []}
        if stage != "prepare":
            return None
        done = [stage for stage in self.chain if digests.get(stage) in self.store]
        return {"digests": digests, "done": done, "dataset": DATASET}

    # All of them.

    def everybody_moves(self) -> None:
        """What was deleted is gone, and all Jobs advance by one step."""
        for job in [job for job in self.jobs if is_deleting(job)]:
            self.collect(job)
        for job in [job for job in self.unfinished() if job["spec"].get("suspend")]:
            self.admit(job)
        for pod in self.running():
            self.end_pod(pod, 0)
        for job in self.unfinished():
            self.settle(job)
        for job in self.startable():
            self.start_pod(job)

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def stage_pods(self, stage: Stage) -> list[Json]:
        return [pod for pod in self.running() if label(pod, names.LABEL_STAGE) == stage]


def variant(number: int) -> dict[str, Any]:
    """One of a few specs that ask for different runs."""
    return ({"training": {"maxSteps": 1}}, {"training": {"maxSteps": 2}}, {"resources": {"gpus": 2}})[number]
