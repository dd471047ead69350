"""Observes a ModelServer: its Deployments, their pods, its Service, and the FineTuneJob that it follows."""

from datetime import UTC, datetime
from typing import Final

from tuneyard_operator.machinery.cache import Reader
from tuneyard_operator.machinery.conditions import parse_time
from tuneyard_operator.machinery.objects import Json, is_condition_true, key_of, name, namespace, uid
from tuneyard_operator.machinery.reconcile import Controller
from tuneyard_operator.modelserver.observe import World
from tuneyard_operator.modelserver.plan import plan

POD_SECONDS: Final = 10  # a pod that has not come up by then is asked why


async def observe(cluster: Reader, server: Json, _since_write: float) -> World:
    followed = server["spec"]["model"].get("fineTuneJobRef", {}).get("name")
    pods = cluster.children("Pod", key_of(server))
    return World(
        server=server,
        deployments=cluster.children("Deployment", key_of(server)),
        pods=pods,
        service=cluster.get("Service", namespace(server), name(server)),
        job=cluster.get("FineTuneJob", namespace(server), followed) if followed else None,
        warnings={uid(pod): cluster.warning(uid(pod)) for pod in pods if _hangs(pod)},
        silence=cluster.silence(key_of(server)),
    )


def _hangs(pod: Json) -> bool:
    """Scheduled, but no container of it has begun."""
    age = (datetime.now(UTC) - parse_time(pod["metadata"]["creationTimestamp"])).total_seconds()
    return age > POD_SECONDS and is_condition_true(pod, "PodScheduled") and not pod.get("status", {}).get("podIP")


CONTROLLER: Final = Controller("ModelServer", observe, plan)
