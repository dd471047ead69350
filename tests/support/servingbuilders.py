"""ModelServers and their children as the API server shows them, for the operator's tables."""

from datetime import timedelta
from typing import Any

from support.operatorbuilders import NOW, SETTINGS
from tuneyard_api.contracts.termination import termination_message
from tuneyard_api.names import API_VERSION
from tuneyard_api.runs import revision
from tuneyard_operator.machinery.objects import Json, condition_in, name
from tuneyard_operator.machinery.plan import Plan
from tuneyard_operator.modelserver.children import FETCH
from tuneyard_operator.modelserver.observe import World
from tuneyard_operator.modelserver.plan import plan

OLD, NEW = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"


class Scene:
    """A ModelServer and its children, built step by step."""

    def __init__(self, digest: str = OLD, **spec: Any) -> None:
        model = {"uri": "s3://artifacts/x", "digest": digest}
        metadata = {"name": "bot", "namespace": "team", "uid": "server-uid", "generation": 1}
        head = {"apiVersion": API_VERSION, "kind": "ModelServer", "metadata": metadata}
        self.server: Json = {**head, "spec": {"model": model} | spec, "status": {}}
        self.world = World(self.server)

    def wants(self, digest: str) -> "Scene":
        self.server["spec"]["model"]["digest"] = digest
        self.server["metadata"]["generation"] += 1
        return self

    def plan(self, seconds: float = 0) -> Plan:
        return plan(self.world, SETTINGS, NOW + timedelta(seconds=seconds))

    def step(self, seconds: float = 0) -> Plan:
        """Carries the plan out, as the API server would."""
        step = self.plan(seconds)
        self.server["status"] = step.status
        deleted = {name(child) for child in step.delete}
        existing = {name(deployment): deployment for deployment in self.world.deployments}
        for child in step.apply:
            if child["kind"] == "Service":
                self.world = self.world._replace(service=child)
            else:
                before = existing.get(name(child), {})
                listed = {key: child[key] for key in ("kind", "metadata", "spec")}  # a list's items have no apiVersion
                existing[name(child)] = listed | {"status": before.get("status", {})}
        self.world = self.world._replace(deployments=[child for key, child in existing.items() if key not in deleted])
        return step

    def becomes_ready(self, digest: str) -> "Scene":
        found = self.deployment_of(digest)
        count = found["spec"]["replicas"]
        found["status"] = {"replicas": count, "readyReplicas": count, "availableReplicas": count}
        return self

    def deployment_of(self, digest: str) -> Json:
        return next(child for child in self.world.deployments if digest in str(child["metadata"]["annotations"]))

    def fetch_fails(self, digest: str, reason: str, exit_code: int, restarts: int) -> "Scene":
        message = termination_message(reason, "model.safetensors differs", "Publish again.").decode()
        return self.container_fails(digest, FETCH, {"exitCode": exit_code, "message": message}, restarts)

    def container_fails(self, digest: str, container: str, terminated: Json, restarts: int) -> "Scene":
        """The container is in CrashLoopBackOff; `terminated` is how its last run ended."""
        revision = self.deployment_of(digest)["spec"]["selector"]["matchLabels"]
        back_off = {"reason": "CrashLoopBackOff", "message": f"back-off 40s restarting failed container={container}"}
        status = {
            "name": container,
            "restartCount": restarts,
            "state": {"waiting": back_off},
            "lastState": {"terminated": terminated},
        }
        pod = {
            "kind": "Pod",
            "metadata": {"name": "bot-pod", "namespace": "team", "uid": "pod-uid", "labels": revision},
            "status": {"initContainerStatuses" if container == FETCH else "containerStatuses": [status]},
        }
        self.world = self.world._replace(pods=[pod])
        return self


def serving() -> Scene:
    """A server whose first revision has the traffic."""
    scene = Scene()
    scene.step()
    scene.becomes_ready(OLD).step(30)
    return scene


def says(step: Plan, kind: str) -> tuple[str, str]:
    found = condition_in(step.status["conditions"], kind)
    return found.get("status", ""), found.get("reason", "")


def kinds(step: Plan) -> list[str]:
    return [child["kind"] for child in step.apply]


def job(**status: Any) -> Json:
    artifacts = [{"format": form, "uri": f"s3://a/{form}", "digest": OLD} for form in ("bf16", "int8")]
    spec = {"output": {"uri": "s3://a", "secretRef": {"name": "s3"}}}
    there: Json = {"metadata": {"name": "tune", "uid": "tune", "generation": 1}, "spec": spec}
    done = {
        "revision": revision(there),
        "conditions": [{"type": "Succeeded", "status": "True"}],
        "artifacts": artifacts,
        "recommended": {"format": "int8"},
    }
    return there | {"status": done | status}


def following(**status: Any) -> Scene:
    """Serves what a FineTuneJob has published."""
    scene = Scene()
    scene.server["spec"]["model"] = {"fineTuneJobRef": {"name": "tune"}}
    scene.world = scene.world._replace(job=job(**status))
    scene.step()
    scene.becomes_ready(OLD).step(30)
    return scene
