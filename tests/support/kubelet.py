"""The scheduler and the kubelets of a simulated cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from support import podstatus
from support.podstatus import STORE_AWAY, End, termination
from tuneyard_api import names
from tuneyard_operator.machinery.conditions import timestamp
from tuneyard_operator.machinery.objects import Json, condition_in, is_condition_true, is_deleting
from tuneyard_operator.modelserver.children import ENGINE, FETCH
from tuneyard_operator.pods.termination import container_status, container_statuses, terminated

if TYPE_CHECKING:
    from support.cluster import SimulatedCluster


class Kubelet:
    """What happens to pods: the nodes, the image registry and the artifacts are as its attributes say."""

    def __init__(self, cluster: SimulatedCluster) -> None:
        self._cluster = cluster
        self.nodes_have_room = self.registry_answers = self.store_answers = self.engine_works = True
        self.lingers = False  # pods that are being deleted do not end
        self.gpus: int | None = None  # pods that fit on the nodes at the same time; None: any number
        self.broken: dict[str, str] = {}  # why an artifact cannot be fetched, by its digest
        self.why_unscheduled = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
        self.verified: set[str] = set()  # digests that a pod has verified

    @property
    def _at(self) -> str:
        return timestamp(self._cluster.now)

    def running(self) -> list[Json]:
        """Pods of which a container runs."""
        return [pod for pod in self._cluster.of_kind("Pod") if is_running(pod)]

    # The pod of a stage.

    def start(self, pod: Json) -> Json:
        """All containers run and are ready."""
        number = self._cluster.number()
        return self._write(pod, podstatus.pod_running(pod, self._at, f"10.0.{number // 250}.{number % 250}"))

    def exit(self, pod: Json, code: int, message: str = "", reason: str = "") -> Json:
        """Its containers exit; `message`: their termination message."""
        return self._write(pod, podstatus.pod_ended(pod, End(code, message), self._at, reason))

    def disrupt(self, pod: Json, message: str = "") -> Json:
        """The pod is about to end because of its node: a drain, an eviction by the API, a preemption."""
        return self._write(pod, {"conditions": [self._condition("DisruptionTarget", True, message=message)]})

    def fail(self, pod: Json, reason: str = "", message: str = "") -> Json:
        """The pod fails as a whole: the node evicts it, or does not exist any more."""
        why = {"reason": reason, "message": message} if reason else {}
        return self._write(pod, {"phase": "Failed", **why})

    def leave_unscheduled(self, pod: Json, message: str = "", reason: str = "Unschedulable") -> Json:
        why = self._condition("PodScheduled", False, reason=reason, message=message)
        return self._write(pod, {"phase": "Pending", "conditions": [why]})

    def keep_waiting(self, pod: Json, reason: str, message: str = "") -> Json:
        """A container does not start: an image that is not found, a Secret that is missing."""
        waiting = podstatus.waiting(reason, message)
        waits = [podstatus.container(spec, waiting) for spec in pod["spec"]["containers"]]
        return self._write(pod, {"phase": "Pending", "containerStatuses": waits})

    # The pod of a ModelServer.

    def starting(self) -> list[Json]:
        """Pods that are not ready yet."""
        return [pod for pod in self._living() if not is_condition_true(pod, "Ready")]

    def ready(self) -> list[Json]:
        return [pod for pod in self._living() if is_condition_true(pod, "Ready")]

    def advance(self, pod: Json) -> None:
        """The next step of a pod that is not ready."""
        fetched = terminated(pod, FETCH).get("exitCode") == 0
        if not is_condition_true(pod, "PodScheduled"):
            self._schedule(pod)
        elif not fetched and not self.registry_answers and not terminated(pod, FETCH, last=True):
            self._set_container(pod, FETCH, podstatus.waiting("ImagePullBackOff", "no such image"))
        elif not fetched:
            self._fetch(pod)
        elif self.engine_works:
            init = pod["status"]["initContainerStatuses"]
            self.start(pod)
            pod["status"]["initContainerStatuses"] = init
        else:
            self.crash(pod)

    def crash(self, pod: Json) -> None:
        """The engine ends, and is restarted later."""
        self._end_container(pod, ENGINE, End(names.EXIT_UNKNOWN, "RuntimeError: no"))
        self._write(pod, {"conditions": [self._condition("Ready", False)]})

    def restart(self, pod: Json) -> None:
        """The engine's container runs again, and the engine loads the model."""
        self._set_container(pod, ENGINE, podstatus.running(self._at))

    def crash_loop(self, pod: Json, container: str, code: int, message: str, restarts: int) -> None:
        """The container is in CrashLoopBackOff, and its last run ended with that code and message."""
        self._set_container(pod, container, podstatus.terminated(End(code, message), self._at))
        back_off = podstatus.waiting("CrashLoopBackOff", f"back-off 40s restarting failed container={container}")
        self._set_container(pod, container, back_off, restarts=restarts)

    def is_hopeless(self, pod: Json) -> bool:
        """It has found its artifact broken as often as matters."""
        is_bad = terminated(pod, FETCH).get("exitCode") == names.EXIT_BAD_INPUT and digest(pod) in self.broken
        return is_bad and container_status(pod, FETCH)["restartCount"] >= 4

    def stop_deleted(self) -> None:
        """Pods that are being deleted end."""
        deleting = [] if self.lingers else [item for item in self._cluster.of_kind("Pod") if is_deleting(item)]
        for pod in deleting:
            for status in container_statuses(pod):
                status["state"] = podstatus.terminated(End(143), self._at)

    def _living(self) -> list[Json]:
        return [pod for pod in self._cluster.of_kind("Pod") if not is_deleting(pod)]

    def _schedule(self, pod: Json) -> None:
        scheduled = [item for item in self._cluster.of_kind("Pod") if is_condition_true(item, "PodScheduled")]
        if self.nodes_have_room and (self.gpus is None or len(scheduled) < self.gpus):
            self._write(pod, {"podIP": "10.0.0.9", "conditions": [self._condition("PodScheduled", True)]})
        else:
            self.leave_unscheduled(pod, self.why_unscheduled)

    def _fetch(self, pod: Json) -> None:
        if not self.store_answers:
            self._end_container(pod, FETCH, STORE_AWAY)
        elif reason := self.broken.get(digest(pod)):
            message = termination(reason, "model.safetensors", "Publish again.")
            self._end_container(pod, FETCH, End(names.EXIT_BAD_INPUT, message))
        else:
            self.verified.add(digest(pod))
            self._end_container(pod, FETCH, End(names.EXIT_DONE))

    def _end_container(self, pod: Json, container: str, end: End) -> None:
        before = container_status(pod, container)
        has_run = bool(terminated(pod, container, last=True)) or "running" in before.get("state", {})
        restarts = before.get("restartCount", 0) + has_run
        self._set_container(pod, container, podstatus.terminated(end, self._at), restarts=restarts)

    def _set_container(self, pod: Json, container: str, state: Json, restarts: int | None = None) -> None:
        before, ended = container_status(pod, container), terminated(pod, container, last=True)
        spec = next(item for item in _containers(pod) if item["name"] == container)
        status = podstatus.container(
            spec,
            state,
            last={"terminated": ended} if ended else {},
            restarts=before.get("restartCount", 0) if restarts is None else restarts,
        )
        kind = "initContainerStatuses" if container == FETCH else "containerStatuses"
        others = [item for item in pod["status"].get(kind, []) if item["name"] != container]
        self._write(pod, {kind: [status, *others]})

    def _condition(self, kind: str, is_true: bool, **why: str) -> Json:
        return podstatus.condition(kind, is_true, self._at, **why)

    def _write(self, pod: Json, status: Json) -> Json:
        """Conditions of other types stay, and one whose status does not change keeps its time."""
        wanted = [self._unchanged_since(pod, item) for item in status.get("conditions", [])]
        others = [item for item in pod["status"].get("conditions", []) if not condition_in(wanted, item["type"])]
        pod["status"] |= status | {"conditions": [*others, *wanted]}
        return pod

    def _unchanged_since(self, pod: Json, wanted: Json) -> Json:
        before = condition_in(pod["status"].get("conditions", []), wanted["type"])
        since = before["lastTransitionTime"] if before.get("status") == wanted["status"] else self._at
        return wanted | {"lastTransitionTime": since}


def is_running(pod: Json) -> bool:
    return any("running" in status["state"] for status in container_statuses(pod))


def _containers(pod: Json) -> list[Json]:
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def digest(pod: Json) -> str:
    """The digest of the artifact that a pod of a ModelServer fetches."""
    command: list[str] = pod["spec"]["initContainers"][0]["command"]
    return command[command.index("--digest") + 1]
