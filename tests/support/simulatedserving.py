"""What surrounds a ModelServer: Deployment controller, kubelet, store, users and orphaned_pods, one move at a time."""

import json
from copy import deepcopy
from datetime import datetime, timedelta
from itertools import count
from typing import Final

from support.operatorbuilders import NOW, SETTINGS, said
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
EXPECTS: Final = timedelta(minutes=5)
DIGESTS: Final = [f"sha256:{each * 64}" for each in "abc"]
FOLLOWS: Final[Json] = {"fineTuneJobRef": {"name": "tune"}}
THEIRS: Final[Json] = {
    "kind": "Service",
    "metadata": {"name": "bot", "namespace": "team", "uid": "theirs"},
    "spec": {"selector": {"app": "another"}},
}


def direct(number: int) -> Json:
    return {"uri": f"s3://artifacts/{number}", "digest": DIGESTS[number]}


class ServedWorld:
    """What is there, what the operator has heard of it, and what can happen to it."""

    def __init__(self, model: Json, replicas: int) -> None:
        self._numbers = count(1)
        self.now = NOW
        self.heard_at = NOW
        self.forgotten: dict[str, datetime] = {}  # since when a Deployment's controller waits for pods that are gone
        self.broken: dict[str, str] = {}  # why an artifact cannot be had, by its digest
        self.verified: set[str] = set()  # digests that a pod has found to be right
        self.store_answers = self.registry_answers = self.nodes_have_room = self.engine_works = True
        self.there: dict[str, list[Json]] = {kind: [] for kind in KINDS}
        self.heard: dict[str, list[Json]] = {kind: [] for kind in KINDS}
        self.news: set[str] = set()
        server: Json = {
            "apiVersion": names.API_VERSION,
            "kind": "ModelServer",
            "spec": {"model": model, "replicas": replicas},
        }
        self._add(server | {"metadata": {"name": "bot", "namespace": "team", "generation": 1, "resourceVersion": "0"}})
        self.publish(0)

    # The operator.

    def hears(self, *kinds: str) -> None:
        """Its cache catches up."""
        if self.news & set(kinds):
            self.heard_at = self.now
        for kind in kinds:
            self.heard[kind] = deepcopy(self.there[kind])
            self.news.discard(kind)

    def observed(self, rejection: Rejection | None = None) -> World:
        heard = self.heard
        follows = "fineTuneJobRef" in heard["ModelServer"][0]["spec"]["model"]
        return World(
            heard["ModelServer"][0],
            heard["Deployment"],
            heard["Pod"],
            next(iter(heard["Service"]), None),
            next(iter(heard["FineTuneJob"]), None) if follows else None,
            seconds_since_last_event=(self.now - self.heard_at).total_seconds(),
            rejection=rejection,
        )

    def plan(self, rejection: Rejection | None = None) -> Plan:
        return plan(self.observed(rejection), SETTINGS, self.now)

    def act(self, step: Plan) -> None:
        """As the reconciler does: what it has written it has heard, too, and that is no news."""
        news = set(self.news)
        for each in step.delete:
            if found := self.find("Deployment", name(each)):
                self.goes(found)
                self._is_heard(found)
            else:
                self.heard["Deployment"].remove(each)
        for each in step.apply:
            self._is_heard(self._applied(each))
        self.news = news

    def write(self, step: Plan) -> bool:
        """The status; refused where it was made from an older version."""
        heard = self.heard["ModelServer"][0]
        if step.status == heard.get("status", {}):
            return True
        if heard["metadata"]["resourceVersion"] != self.server["metadata"]["resourceVersion"]:
            return False
        self.server["status"] = json.loads(json.dumps(step.status))
        self._number(self.server)
        self._is_heard(self.server)
        return True

    def _applied(self, wanted: Json) -> Json:
        there = self.find(wanted["kind"], name(wanted))
        if there is None:
            self.forgotten.pop(name(wanted), None)
            return self._add(deepcopy(wanted) | {"status": {}})
        if there["spec"] != wanted["spec"]:
            there["metadata"]["generation"] += 1
        there["spec"] = deepcopy(wanted["spec"])
        there["metadata"] |= deepcopy(wanted["metadata"])
        if self.now - self.forgotten.get(name(there), self.now) > EXPECTS:
            del self.forgotten[name(there)]
        self._changed(there)
        return there

    def _is_heard(self, thing: Json) -> None:
        kind = thing["kind"]
        self.heard_at = self.now
        self.heard[kind] = [each for each in self.heard[kind] if name(each) != name(thing)] + [deepcopy(thing)]

    # What is there.

    @property
    def server(self) -> Json:
        return self.there["ModelServer"][0]

    @property
    def service(self) -> Json | None:
        return next(iter(self.there["Service"]), None)

    @property
    def deployments(self) -> list[Json]:
        return [each for each in self.there["Deployment"] if not is_deleting(each)]

    def find(self, kind: str, called: str) -> Json | None:
        return next((each for each in self.there[kind] if name(each) == called), None)

    def pods_of(self, deployment: Json) -> list[Json]:
        return [pod for pod in self.there["Pod"] if owned_by(pod, uid(deployment)) and not is_deleting(pod)]

    def working(self) -> list[Json]:
        """Pods that the kubelet has something to do for."""
        return [pod for pod in self.there["Pod"] if not is_deleting(pod) and not is_condition_true(pod, "Ready")]

    def ready(self) -> list[Json]:
        return [pod for pod in self.there["Pod"] if not is_deleting(pod) and is_condition_true(pod, "Ready")]

    def _add(self, thing: Json) -> Json:
        thing["metadata"] = {"generation": 1} | thing["metadata"] | {"uid": f"uid-{next(self._numbers)}"}
        self.there[thing["kind"]].append(thing)
        self._changed(thing)
        return thing

    def _changed(self, thing: Json) -> None:
        self._number(thing)
        self.news.add(thing["kind"])

    def _number(self, thing: Json) -> None:
        thing["metadata"]["resourceVersion"] = str(next(self._numbers))

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
        self.there["FineTuneJob"] = []
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
        """Starts and ends pods, and counts them."""
        wanted = deployment["spec"]["replicas"]
        if name(deployment) not in self.forgotten:
            for _ in range(wanted - len(self.pods_of(deployment))):
                self._start_pod(deployment)
        own = sorted(self.pods_of(deployment), key=lambda pod: not is_condition_true(pod, "Ready"))
        for pod in own[wanted:]:
            self.goes(pod)
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

    def forget(self, deployment: Json) -> None:
        """Its pods go, and its ReplicaSet expects them for five minutes; after those only a change makes it look."""
        for pod in self.pods_of(deployment):
            self.goes(pod)
        self.forgotten[name(deployment)] = self.now

    def _rollout(self, deployment: Json, *, done: bool) -> Json:
        """Once it was complete, the loss of pods does not count as a lack of progress."""
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
            self._says(pod, FETCH, {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}})
        elif not fetched:
            self._fetch(pod)
        elif self.engine_works:
            self._says(pod, ENGINE, {"running": {}}, ready=True)
            self._holds(pod, "Ready", "True")
        else:
            self._ends(pod, ENGINE, 1, "RuntimeError: no")
        self._changed(pod)

    def crash(self, pod: Json) -> None:
        """The engine of a pod that was ready."""
        self._ends(pod, ENGINE, 1, "RuntimeError: no")
        self._holds(pod, "Ready", "False")
        self._changed(pod)

    def _schedule(self, pod: Json) -> None:
        if self.nodes_have_room:
            self._holds(pod, "PodScheduled", "True")
            pod["status"]["podIP"] = "10.0.0.9"
        else:
            self._holds(pod, "PodScheduled", "False", reason="Unschedulable", message="Insufficient nvidia.com/gpu")

    def _fetch(self, pod: Json) -> None:
        if not self.store_answers:
            self._ends(pod, FETCH, names.EXIT_TRY_AGAIN, said(reasons.STORAGE_UNAVAILABLE, "no answer"))
        elif reason := self.broken.get(pod["digest"]):
            self._ends(pod, FETCH, names.EXIT_BAD_INPUT, said(reason, "model.safetensors", "Publish again."))
        else:
            self.verified.add(pod["digest"])
            self._ends(pod, FETCH, 0, "")

    def _ends(self, pod: Json, container: str, code: int, message: str) -> None:
        before = container_status(pod, container)
        tried = bool(terminated(pod, container, last=True)) or "running" in before.get("state", {})
        restarts = before.get("restartCount", 0) + tried
        self._says(pod, container, {"terminated": {"exitCode": code, "message": message}}, restarts=restarts)

    def _says(
        self, pod: Json, container: str, state: Json, *, ready: bool = False, restarts: int | None = None
    ) -> None:
        before = container_status(pod, container)
        ended = terminated(pod, container, last=True)
        kind = "initContainerStatuses" if container == FETCH else "containerStatuses"
        said = {"name": container, "ready": ready, "state": state, "lastState": {"terminated": ended} if ended else {}}
        count = before.get("restartCount", 0) if restarts is None else restarts
        pod["status"][kind] = [said | {"restartCount": count}]

    @staticmethod
    def _holds(pod: Json, kind: str, status: str, **why: str) -> None:
        others = [each for each in pod["status"]["conditions"] if each["type"] != kind]
        pod["status"]["conditions"] = [*others, {"type": kind, "status": status, **why}]

    # Strangers, and the garbage collector.

    def goes(self, thing: Json) -> None:
        thing["metadata"].setdefault("deletionTimestamp", timestamp(self.now))
        if thing["kind"] == "Deployment":
            for pod in self.pods_of(thing):
                self.goes(pod)
        self._changed(thing)

    def collect(self) -> None:
        """What was deleted is gone."""
        for kind in ("Deployment", "Pod"):
            left = [each for each in self.there[kind] if not is_deleting(each)]
            if len(left) < len(self.there[kind]):
                self.there[kind] = left
                self.news.add(kind)

    def replace_service(self, *services: Json) -> None:
        self.there["Service"] = [deepcopy(each) for each in services]
        self.news.add("Service")

    def redirect_service(self) -> None:
        """Somebody writes another selector."""
        if self.service:
            self.service["spec"]["selector"] = {"app": "another"}
            self._changed(self.service)

    def forget_job(self) -> None:
        self.there["FineTuneJob"] = []
        self.news.add("FineTuneJob")

    def scale(self, deployment: Json, replicas: int) -> None:
        """By hand, against the operator."""
        deployment["spec"]["replicas"] = replicas
        deployment["metadata"]["generation"] += 1
        self._changed(deployment)

    def heal(self) -> None:
        """All but the artifacts is as it should be, and orphaned_pods take back what has our name."""
        if THEIRS in self.there["Service"]:
            self.replace_service()
        self.store_answers = self.registry_answers = self.nodes_have_room = self.engine_works = True

    def everybody_moves(self) -> None:
        """Who tries again and again in vain is left out after some time."""
        self.collect()
        for pod in self.working():
            in_vain = terminated(pod, FETCH).get("exitCode") == names.EXIT_BAD_INPUT
            if not in_vain or pod["digest"] not in self.broken or container_status(pod, FETCH)["restartCount"] < 4:
                self.advance(pod)
        for each in self.deployments:
            self.settle(each)

    def is_at_work(self) -> bool:
        """The Deployment controller or the kubelet has something to do."""
        return bool(self.working()) or any(map(self._is_unsettled, self.deployments))

    def _is_unsettled(self, deployment: Json) -> bool:
        short = len(self.pods_of(deployment)) != int(deployment["spec"]["replicas"])
        uncounted = not is_subset(deployment["status"], self._counts(deployment))
        return uncounted or (short and name(deployment) not in self.forgotten)

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    # For the properties.

    def selected(self, among: dict[str, list[Json]]) -> str | None:
        """The revision that our Service points to, in `there` or `heard`."""
        ours = [each for each in among["Service"] if owned_by(each, uid(self.server))]
        revision: str | None = ours[0]["spec"]["selector"].get(names.LABEL_REVISION) if ours else None
        return revision

    def revision(self, called: str | None) -> Json | None:
        """Its Deployment, as far as the operator has heard."""
        of = (each for each in self.heard["Deployment"] if label(each, names.LABEL_REVISION) == called)
        return next((each for each in of if not is_deleting(each)), None)
