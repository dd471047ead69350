"""A simulated cluster with one ModelServer, in the words of its revisions."""

from datetime import timedelta
from typing import Any, Final, Self

from support.builders import NAMESPACE, NOW, OLD, artifact, fine_tune_job, model_server, release
from support.cluster import SimulatedCluster
from support.podstatus import termination
from tuneyard_api import names
from tuneyard_operator.machinery.objects import Json, condition_in, controller_of, is_deleting, label, owned_by, uid
from tuneyard_operator.machinery.plan import Plan
from tuneyard_operator.modelserver.artifact import release_of
from tuneyard_operator.modelserver.children import FETCH

FOLLOWS: Final[Json] = {"fineTuneJobRef": {"name": "tune"}}


def condition_of(step: Plan, kind: str) -> tuple[str, str]:
    """Status and reason of a condition that a plan writes; empty where it writes none."""
    found = condition_in(step.status["conditions"], kind)
    return found.get("status", ""), found.get("reason", "")


def kinds(step: Plan) -> list[str]:
    return [child["kind"] for child in step.apply]


class Serving(SimulatedCluster):
    """What a test does to a ModelServer, its Deployments and their pods, and to the FineTuneJob that it follows."""

    def __init__(self, model: Json | None = None, *, own_writes_enqueue: bool = True, **spec: Any) -> None:
        super().__init__(model_server(model or artifact(OLD), **spec), own_writes_enqueue=own_writes_enqueue)

    @property
    def server(self) -> Json:
        return self.objects[self.key]

    @property
    def service(self) -> Json | None:
        return self.get("Service", self.key.name)

    @property
    def deployments(self) -> list[Json]:
        """Those that are not being deleted."""
        return self.deployment_controller.all()

    def deployment_of(self, digest: str) -> Json:
        return next(item for item in self.of_kind("Deployment") if release_of(item).digest == digest)

    def pod_of(self, digest: str) -> Json:
        """A pod of the revision; the Deployment controller creates it where there is none."""
        deployment = self.deployment_of(digest)
        self.deployment_controller.sync(deployment)
        return self.pods_of(deployment)[0]

    # The user, and the FineTuneJob.

    def change(self, **spec: Any) -> Self:
        self.server["spec"] |= spec
        return self

    def wants(self, digest: str) -> Self:
        return self.change(model=artifact(digest))

    def publish(self, digest: str = OLD, spec: Json | None = None, **status: Any) -> Json:
        """The FineTuneJob is recreated, and has released the artifact."""
        self.delete_job()
        job = self.create(fine_tune_job("tune", **(spec or {})))
        job["status"] = release(job, digest, **status)
        return job

    def train(self) -> Json:
        """The FineTuneJob is recreated, and trains."""
        return self.publish(conditions=[], phase="Training")

    def delete_job(self) -> None:
        if job := self.get("FineTuneJob", "tune"):
            self.delete(job)

    # The operator.

    def step(self, at: float) -> Plan:
        """One reconcile, so many seconds after NOW. What it deletes is gone afterwards."""
        self.now = NOW + timedelta(seconds=at)
        step = self.reconcile()
        self.collect()
        return step

    def dry_run_at(self, at: float) -> Plan:
        self.now = NOW + timedelta(seconds=at)
        return self.dry_run()

    # The controllers and the kubelet.

    def become_ready(self, digest: str) -> Self:
        """The pods of the revision start, and the Deployment controller sees it."""
        deployment = self.deployment_of(digest)
        self.deployment_controller.sync(deployment)
        while starting := [pod for pod in self.pods_of(deployment) if pod in self.kubelet.starting()]:
            self.kubelet.advance(starting[0])
        self.deployment_controller.sync(deployment)
        return self

    def fail_fetch(self, digest: str, reason: str, code: int, restarts: int) -> Self:
        message = termination(reason, "model.safetensors differs", "Publish again.")
        return self.fail_container(digest, FETCH, code, message, restarts)

    def fail_container(self, digest: str, container: str, code: int, message: str, restarts: int) -> Self:
        self.kubelet.crash_loop(self.pod_of(digest), container, code, message, restarts)
        return self

    def sync_deployments(self) -> None:
        for item in self.deployments:
            self.deployment_controller.sync(item)

    def collect(self) -> None:
        """Objects that are being deleted are gone."""
        self.kubelet.stop_deleted()
        self.garbage_collector.collect()

    def controllers_run(self) -> None:
        """One step of every controller. A pod whose artifact is broken stops retrying."""
        self.collect()
        for pod in self.kubelet.starting():
            if not self.kubelet.is_hopeless(pod):
                self.kubelet.advance(pod)
        self.sync_deployments()

    def recover(self) -> None:
        """Everything but broken artifacts works again, and a foreign Service is deleted."""
        self.kubelet.store_answers = self.kubelet.registry_answers = True
        self.kubelet.nodes_have_room = self.kubelet.engine_works = True
        if self.service and not controller_of(self.service):
            self.replace_service()

    def has_work(self) -> bool:
        """The Deployment controller or the kubelet has something to do."""
        return bool(self.kubelet.starting()) or any(map(self.deployment_controller.has_work, self.deployments))

    # For the properties.

    def replace_service(self, *services: Json) -> None:
        """Somebody deletes the Service, or puts another one in its place."""
        if self.service:
            self.remove(self.service)
        for item in services:
            self.create(item)

    def redirect_service(self) -> None:
        """Another user changes its selector."""
        if self.service:
            self.service["spec"]["selector"] = {"app": "another"}

    def follows_failed_gate(self) -> bool:
        """Whether a gate of the release that the ModelServer follows has failed, by the operator's cache."""
        job = self.cache.get("FineTuneJob", NAMESPACE, "tune") if self.cached["spec"]["model"] == FOLLOWS else None
        return {"passed": False} in (job or {}).get("status", {}).get("evaluation", {}).get("gates", [])

    def selected(self, *, cached: bool = False) -> str | None:
        """The revision that the ModelServer's Service selects, in the cluster or in the operator's cache."""
        service = self.cache.get("Service", NAMESPACE, self.key.name) if cached else self.service
        if service is None or not owned_by(service, uid(self.server)):
            return None
        revision: str | None = service["spec"]["selector"].get(names.LABEL_REVISION)
        return revision

    def lacks_room(self, revision: str) -> bool:
        """Whether a pod of the revision was left without a node, by the operator's cache."""
        pods = [pod for pod in self.cache.children("Pod", self.key) if label(pod, names.LABEL_REVISION) == revision]
        return any("Insufficient" in str(pod["status"]) for pod in pods)

    def revision(self, revision: str | None) -> Json | None:
        """Its Deployment in the operator's cache."""
        cached = self.cache.children("Deployment", self.key)
        found = (item for item in cached if label(item, names.LABEL_REVISION) == revision)
        return next((item for item in found if not is_deleting(item)), None)


def serving() -> Serving:
    """A ModelServer whose first revision has the traffic."""
    cluster = Serving()
    cluster.step(0)
    cluster.become_ready(OLD).step(30)
    return cluster


def following(**status: Any) -> Serving:
    """A ModelServer that serves what a FineTuneJob has released."""
    cluster = Serving(FOLLOWS)
    cluster.publish(**status)
    cluster.step(0)
    cluster.become_ready(OLD).step(30)
    return cluster
