"""What surrounds a ModelServer: Deployment controller, kubelet, store and users, one step at a time."""

import json
from copy import deepcopy
from datetime import datetime, timedelta
from itertools import count
from typing import Final

from support.operatorbuilders import NOW, SETTINGS, termination
from tuneyard_api import names, reasons
from tuneyard_api.runs import revision
from tuneyard_operator.machinery.conditions import parse_time, timestamp
from tuneyard_operator.machinery.objects import (
    Json,
    condition,
    is_condition_true,
    is_deleting,
    is_subset,
    label,
    name,
    owned_by,
    uid,
)
from tuneyard_operator.machinery.plan import Plan, Rejection
from tuneyard_operator.modelserver.artifact import release_of
from tuneyard_operator.modelserver.children import ENGINE, FETCH
from tuneyard_operator.modelserver.observe import World
from tuneyard_operator.modelserver.plan import plan
from tuneyard_operator.modelserver.revisions import ROLLED_OUT
from tuneyard_operator.pods.termination import container_status, terminated

KINDS: Final = ("ModelServer", "Deployment", "Pod", "Service", "FineTuneJob")
EXPECTATION_TIMEOUT: Final = timedelta(minutes=5)
DIGESTS: Final = [f"sha256:{item * 64}" for item in "abc"]
FOLLOWS: Final[Json] = {"fineTuneJobRef": {"name": "tune"}}
FOREIGN_SERVICE: Final[Json] = {
    "kind": "Service",
    "metadata": {"name": "bot", "namespace": "team", "uid": "theirs"},
    "spec": {"selector": {"app": "another"}},
}


def direct(number: int) -> Json:
    return {"uri": f"s3://artifacts/{number}", "digest": DIGESTS[number]}


class ServedWorld:
    """The objects of a cluster, the operator's cache of them, and everything that can happen to them."""

    def __init__(self, model: Json, replicas: int) -> None:
        self._numbers = count(1)
        self.now = NOW
        self.last_event_at = NOW
        self.stalled: dict[str, datetime] = {}  # since when a controller expects pods that are gone
        self.broken: dict[str, str] = {}  # why an artifact cannot be fetched, by its digest
        self.verified: set[str] = set()  # digests that a pod has verified
        self.store_answers = self.registry_answers = self.nodes_have_room = self.engine_works = True
        self.objects: dict[str, list[Json]] = {kind: [] for kind in KINDS}
        self.cached: dict[str, list[Json]] = {kind: [] for kind in KINDS}
        self.unobserved: set[str] = set()
        server: Json = {
            "apiVersion": names.API_VERSION,
            "kind": "ModelServer",
            "spec": {"model": model, "replicas": replicas},
        }
        self._add(server | {"metadata": {"name": "bot", "namespace": "team", "generation": 1, "resourceVersion": "0"}})
        self.publish(0)

    # The operator.

    def sync_cache(self, *kinds: str) -> None:
        """The operator's cache catches up with the cluster."""
        if self.unobserved & set(kinds):
            self.last_event_at = self.now
        for kind in kinds:
            self.cached[kind] = deepcopy(self.objects[kind])
            self.unobserved.discard(kind)

    def observed(self, rejection: Rejection | None = None) -> World:
        cached = self.cached
        follows = "fineTuneJobRef" in cached["ModelServer"][0]["spec"]["model"]
        return World(
            cached["ModelServer"][0],
            cached["Deployment"],
            cached["Pod"],
            next(iter(cached["Service"]), None),
            next(iter(cached["FineTuneJob"]), None) if follows else None,
            seconds_since_last_event=(self.now - self.last_event_at).total_seconds(),
            rejection=rejection,
        )

    def plan(self, rejection: Rejection | None = None) -> Plan:
        return plan(self.observed(rejection), SETTINGS, self.now)

    def act(self, step: Plan) -> None:
        """Carries a plan out, as the reconciler does: its own writes are in its cache and do not enqueue."""
        unobserved = set(self.unobserved)
        for item in step.delete:
            if found := self.find("Deployment", name(item)):
                self.mark_deleting(found)
                self._put_in_cache(found)
            else:
                self.cached["Deployment"].remove(item)
        for item in step.apply:
            self._put_in_cache(self._applied(item))
        self.unobserved = unobserved

    def write(self, step: Plan) -> bool:
        """Writes the status; False where it was planned from an older version."""
        cached = self.cached["ModelServer"][0]
        if step.status == cached.get("status", {}):
            return True
        if cached["metadata"]["resourceVersion"] != self.server["metadata"]["resourceVersion"]:
            return False
        self.server["status"] = json.loads(json.dumps(step.status))
        self._number(self.server)
        self._put_in_cache(self.server)
        return True

    def _applied(self, wanted: Json) -> Json:
        existing = self.find(wanted["kind"], name(wanted))
        if existing is None:
            self.stalled.pop(name(wanted), None)
            return self._add(deepcopy(wanted) | {"status": {}})
        if existing["spec"] != wanted["spec"]:
            existing["metadata"]["generation"] += 1
        existing["spec"] = deepcopy(wanted["spec"])
        existing["metadata"] |= deepcopy(wanted["metadata"])
        if self.now - self.stalled.get(name(existing), self.now) > EXPECTATION_TIMEOUT:
            del self.stalled[name(existing)]
        self._changed(existing)
        return existing

    def _put_in_cache(self, obj: Json) -> None:
        kind = obj["kind"]
        self.last_event_at = self.now
        self.cached[kind] = [item for item in self.cached[kind] if name(item) != name(obj)] + [deepcopy(obj)]

    # The cluster.

    @property
    def server(self) -> Json:
        return self.objects["ModelServer"][0]

    @property
    def service(self) -> Json | None:
        return next(iter(self.objects["Service"]), None)

    @property
    def deployments(self) -> list[Json]:
        return [item for item in self.objects["Deployment"] if not is_deleting(item)]

    def find(self, kind: str, called: str) -> Json | None:
        return next((item for item in self.objects[kind] if name(item) == called), None)

    def pods_of(self, deployment: Json) -> list[Json]:
        return [pod for pod in self.objects["Pod"] if owned_by(pod, uid(deployment)) and not is_deleting(pod)]

    def starting_pods(self) -> list[Json]:
        """Pods that are not ready yet."""
        return [pod for pod in self.objects["Pod"] if not is_deleting(pod) and not is_condition_true(pod, "Ready")]

    def ready_pods(self) -> list[Json]:
        return [pod for pod in self.objects["Pod"] if not is_deleting(pod) and is_condition_true(pod, "Ready")]

    def _add(self, obj: Json) -> Json:
        obj["metadata"] = {"generation": 1} | obj["metadata"] | {"uid": f"uid-{next(self._numbers)}"}
        self.objects[obj["kind"]].append(obj)
        self._changed(obj)
        return obj

    def _changed(self, obj: Json) -> None:
        self._number(obj)
        self.unobserved.add(obj["kind"])

    def _number(self, obj: Json) -> None:
        obj["metadata"]["resourceVersion"] = str(next(self._numbers))

    # The user, and the FineTuneJob.

    def change(self, spec: Json) -> None:
        wanted = self.server["spec"] | spec
        if wanted != self.server["spec"]:
            self.server["metadata"]["generation"] += 1
            self.server["spec"] = wanted
            self._changed(self.server)

    def lose_status(self) -> None:
        self.server.pop("status", None)
        self._changed(self.server)

    def publish(self, number: int, *, passed: bool = True) -> None:
        artifact = {"format": "bf16", **direct(number)}
        self._follow(
            {
                "phase": "Succeeded",
                "conditions": [{"type": "Succeeded", "status": "True"}],
                "artifacts": [artifact],
                "recommended": {"format": "bf16"},
                "evaluation": {"gates": [{"passed": passed}]},
            }
        )

    def train(self) -> None:
        self._follow({"phase": "Training"})

    def _follow(self, status: Json) -> None:
        self.objects["FineTuneJob"] = []
        job = self._add(
            {
                "kind": "FineTuneJob",
                "metadata": {"name": "tune", "namespace": "team"},
                "spec": {"output": {"uri": "s3://artifacts"}},
            }
        )
        job["status"] = status | {"revision": revision(job)}

    # The Deployment controller.

    def settle(self, deployment: Json) -> None:
        """Creates and deletes pods, and counts them."""
        wanted = deployment["spec"]["replicas"]
        if name(deployment) not in self.stalled:
            for _ in range(wanted - len(self.pods_of(deployment))):
                self._start_pod(deployment)
        own = sorted(self.pods_of(deployment), key=lambda pod: not is_condition_true(pod, "Ready"))
        for pod in own[wanted:]:
            self.mark_deleting(pod)
        counts = self._counts(deployment)
        status = counts | {"conditions": [self._rollout(deployment, done=counts["readyReplicas"] == wanted)]}
        if status != deployment["status"]:
            deployment["status"] = status
            self._changed(deployment)

    def _counts(self, deployment: Json) -> Json:
        pods = self.pods_of(deployment)
        ready = sum(is_condition_true(pod, "Ready") for pod in pods)
        generation = deployment["metadata"]["generation"]
        counts = {"replicas": len(pods), "readyReplicas": ready, "availableReplicas": ready}
        return {"observedGeneration": generation} | counts

    def stall(self, deployment: Json) -> None:
        """Its pods are deleted. Its ReplicaSet expects them for five minutes; later only a change triggers it."""
        for pod in self.pods_of(deployment):
            self.mark_deleting(pod)
        self.stalled[name(deployment)] = self.now

    def _rollout(self, deployment: Json, *, done: bool) -> Json:
        """A Deployment that was complete once does not miss its deadline when it loses pods."""
        before: Json = condition(deployment, "Progressing")
        if done or before.get("reason") == ROLLED_OUT:
            return {"type": "Progressing", "status": "True", "reason": ROLLED_OUT}
        since = before.get("since", timestamp(self.now))
        late = (self.now - parse_time(since)).total_seconds() > deployment["spec"]["progressDeadlineSeconds"]
        said = ("False", reasons.PROGRESS_DEADLINE_EXCEEDED) if late else ("True", "ReplicaSetUpdated")
        return {"type": "Progressing", "status": said[0], "reason": said[1], "since": since}

    def _start_pod(self, deployment: Json) -> None:
        number = next(self._numbers)
        owner = {"kind": "ReplicaSet", "uid": uid(deployment), "controller": True}
        metadata: Json = {
            "name": f"{name(deployment)}-{number}",
            "namespace": "team",
            "labels": deployment["spec"]["template"]["metadata"]["labels"],
            "ownerReferences": [owner],
        }
        status: Json = {"initContainerStatuses": [], "containerStatuses": [], "conditions": []}
        self._add({"kind": "Pod", "metadata": metadata, "digest": release_of(deployment).digest, "status": status})

    # The scheduler and the kubelet.

    def advance(self, pod: Json) -> None:
        """The pod's next step, as far as the world lets it."""
        fetched = terminated(pod, FETCH).get("exitCode") == 0
        if not is_condition_true(pod, "PodScheduled"):
            self._schedule(pod)
        elif not fetched and not self.registry_answers and not terminated(pod, FETCH, last=True):
            self._set_container(pod, FETCH, {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}})
        elif not fetched:
            self._fetch(pod)
        elif self.engine_works:
            self._set_container(pod, ENGINE, {"running": {}}, ready=True)
            self._set_condition(pod, "Ready", "True")
        else:
            self._terminate(pod, ENGINE, 1, "RuntimeError: no")
        self._changed(pod)

    def crash(self, pod: Json) -> None:
        """The engine of a pod that was ready."""
        self._terminate(pod, ENGINE, 1, "RuntimeError: no")
        self._set_condition(pod, "Ready", "False")
        self._changed(pod)

    def _schedule(self, pod: Json) -> None:
        if self.nodes_have_room:
            self._set_condition(pod, "PodScheduled", "True")
            pod["status"]["podIP"] = "10.0.0.9"
        else:
            self._set_condition(
                pod, "PodScheduled", "False", reason="Unschedulable", message="Insufficient nvidia.com/gpu"
            )

    def _fetch(self, pod: Json) -> None:
        if not self.store_answers:
            self._terminate(pod, FETCH, names.EXIT_TRY_AGAIN, termination(reasons.STORAGE_UNAVAILABLE, "no answer"))
        elif reason := self.broken.get(pod["digest"]):
            self._terminate(
                pod, FETCH, names.EXIT_BAD_INPUT, termination(reason, "model.safetensors", "Publish again.")
            )
        else:
            self.verified.add(pod["digest"])
            self._terminate(pod, FETCH, 0, "")

    def _terminate(self, pod: Json, container: str, code: int, message: str) -> None:
        before = container_status(pod, container)
        tried = bool(terminated(pod, container, last=True)) or "running" in before.get("state", {})
        restarts = before.get("restartCount", 0) + tried
        self._set_container(pod, container, {"terminated": {"exitCode": code, "message": message}}, restarts=restarts)

    def _set_container(
        self, pod: Json, container: str, state: Json, *, ready: bool = False, restarts: int | None = None
    ) -> None:
        before = container_status(pod, container)
        ended = terminated(pod, container, last=True)
        kind = "initContainerStatuses" if container == FETCH else "containerStatuses"
        said = {"name": container, "ready": ready, "state": state, "lastState": {"terminated": ended} if ended else {}}
        count = before.get("restartCount", 0) if restarts is None else restarts
        pod["status"][kind] = [said | {"restartCount": count}]

    @staticmethod
    def _set_condition(pod: Json, kind: str, status: str, **why: str) -> None:
        others = [item for item in pod["status"]["conditions"] if item["type"] != kind]
        pod["status"]["conditions"] = [*others, {"type": kind, "status": status, **why}]

    # Other users, and the garbage collector.

    def mark_deleting(self, obj: Json) -> None:
        obj["metadata"].setdefault("deletionTimestamp", timestamp(self.now))
        if obj["kind"] == "Deployment":
            for pod in self.pods_of(obj):
                self.mark_deleting(pod)
        self._changed(obj)

    def collect(self) -> None:
        """Removes the objects that are being deleted."""
        for kind in ("Deployment", "Pod"):
            left = [item for item in self.objects[kind] if not is_deleting(item)]
            if len(left) < len(self.objects[kind]):
                self.objects[kind] = left
                self.unobserved.add(kind)

    def replace_service(self, *services: Json) -> None:
        self.objects["Service"] = [deepcopy(item) for item in services]
        self.unobserved.add("Service")

    def redirect_service(self) -> None:
        """Another user changes the selector."""
        if self.service:
            self.service["spec"]["selector"] = {"app": "another"}
            self._changed(self.service)

    def delete_job(self) -> None:
        self.objects["FineTuneJob"] = []
        self.unobserved.add("FineTuneJob")

    def scale(self, deployment: Json, replicas: int) -> None:
        """Another user scales a Deployment."""
        deployment["spec"]["replicas"] = replicas
        deployment["metadata"]["generation"] += 1
        self._changed(deployment)

    def heal(self) -> None:
        """Everything but broken artifacts works again, and a foreign Service is deleted."""
        if FOREIGN_SERVICE in self.objects["Service"]:
            self.replace_service()
        self.store_answers = self.registry_answers = self.nodes_have_room = self.engine_works = True

    def controllers_run(self) -> None:
        """One step of every controller. A pod whose artifact is broken stops retrying."""
        self.collect()
        for pod in self.starting_pods():
            is_bad = pod["digest"] in self.broken and terminated(pod, FETCH).get("exitCode") == names.EXIT_BAD_INPUT
            if not is_bad or container_status(pod, FETCH)["restartCount"] < 4:
                self.advance(pod)
        for item in self.deployments:
            self.settle(item)

    def has_work(self) -> bool:
        """The Deployment controller or the kubelet has something to do."""
        return bool(self.starting_pods()) or any(map(self._is_unsettled, self.deployments))

    def _is_unsettled(self, deployment: Json) -> bool:
        short = len(self.pods_of(deployment)) != int(deployment["spec"]["replicas"])
        uncounted = not is_subset(deployment["status"], self._counts(deployment))
        return uncounted or (short and name(deployment) not in self.stalled)

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    # For the properties.

    def selected(self, among: dict[str, list[Json]]) -> str | None:
        """The revision that the ModelServer's Service selects, in `objects` or `cached`."""
        ours = [item for item in among["Service"] if owned_by(item, uid(self.server))]
        revision: str | None = ours[0]["spec"]["selector"].get(names.LABEL_REVISION) if ours else None
        return revision

    def revision(self, called: str | None) -> Json | None:
        """Its Deployment in the operator's cache."""
        of = (item for item in self.cached["Deployment"] if label(item, names.LABEL_REVISION) == called)
        return next((item for item in of if not is_deleting(item)), None)
