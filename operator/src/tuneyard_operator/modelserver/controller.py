"""Observes a ModelServer: its Deployments, their pods, its Service, and the FineTuneJob that it follows."""

from datetime import UTC, datetime
from typing import Final

from tuneyard_api import names
from tuneyard_operator.conditions import parse_time
from tuneyard_operator.kube import Kube
from tuneyard_operator.modelserver.observe import World
from tuneyard_operator.modelserver.plan import plan
from tuneyard_operator.objects import Json, holds, name, namespace, uid
from tuneyard_operator.reconcile import Controller

POD_SECONDS: Final = 10  # a pod that has not come up by then is asked why


async def observe(kube: Kube, server: Json, since_write: float) -> World:
    selector = f"{names.LABEL_MODELSERVER}={name(server)}"
    followed = server["spec"]["model"].get("fineTuneJobRef", {}).get("name")
    pods = await kube.list("Pod", namespace(server), labels=selector)
    return World(
        server=server,
        deployments=await kube.list("Deployment", namespace(server), labels=selector),
        pods=pods,
        service=await kube.get("Service", namespace(server), name(server)),
        job=await kube.get("FineTuneJob", namespace(server), followed) if followed else None,
        warnings={uid(pod): await _last_warning(kube, pod) for pod in pods if _hangs(pod)},
        since_write=since_write,
    )


def _hangs(pod: Json) -> bool:
    """Scheduled, but no container of it has begun."""
    age = (datetime.now(UTC) - parse_time(pod["metadata"]["creationTimestamp"])).total_seconds()
    return age > POD_SECONDS and holds(pod, "PodScheduled") and not pod.get("status", {}).get("podIP")


async def _last_warning(kube: Kube, pod: Json) -> str:
    events = await kube.list("Event", namespace(pod), fields=f"involvedObject.uid={uid(pod)},type=Warning")
    latest = max(events, key=lambda event: event.get("lastTimestamp") or "", default={})
    return f"{latest['reason']}: {latest['message']}" if latest else ""


CONTROLLER: Final = Controller("ModelServer", observe, plan)
