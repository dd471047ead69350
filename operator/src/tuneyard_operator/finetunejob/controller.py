"""Observes a FineTuneJob: its Jobs, their pods, and what the running stage answers."""

from datetime import UTC, datetime
from typing import Final

import aiohttp

from tuneyard_api import names
from tuneyard_operator.conditions import parse_time
from tuneyard_operator.finetunejob.observe import World, is_held, own_jobs, running_pod_ip
from tuneyard_operator.finetunejob.plan import plan
from tuneyard_operator.kube import Kube
from tuneyard_operator.objects import Json, holds, name, namespace, owned_by, uid
from tuneyard_operator.reconcile import Controller

PROGRESS_TIMEOUT: Final = aiohttp.ClientTimeout(total=2)  # seconds
POD_SECONDS: Final = 5  # a Job that has no pod by then is asked why


async def observe(kube: Kube, job: Json, since_write: float) -> World:
    selector = f"{names.LABEL_FINETUNEJOB}={name(job)}"
    world = World(
        job=job,
        jobs=await kube.list("Job", namespace(job), labels=selector),
        pods=await kube.list("Pod", namespace(job), labels=selector),
        since_write=since_write,
    )
    return world._replace(warnings=await _warnings(kube, world), progress=await _progress(world))


async def _warnings(kube: Kube, world: World) -> dict[str, str]:
    """Why Jobs have no pods, by the Jobs' uids: admission and quotas are told in events only."""
    return {uid(job): await _last_warning(kube, job) for job in own_jobs(world) if _lacks_pod(job, world.pods)}


def _lacks_pod(job: Json, pods: list[Json]) -> bool:
    age = (datetime.now(UTC) - parse_time(job["metadata"]["creationTimestamp"])).total_seconds()
    over = holds(job, "Complete") or holds(job, "Failed")
    return not over and not is_held(job) and age > POD_SECONDS and not any(owned_by(pod, uid(job)) for pod in pods)


async def _last_warning(kube: Kube, job: Json) -> str:
    events = await kube.list("Event", namespace(job), fields=f"involvedObject.uid={uid(job)},type=Warning")
    latest = max(events, key=lambda event: event.get("lastTimestamp") or "", default={})
    return f"{latest['reason']}: {latest['message']}" if latest else ""


async def _progress(world: World) -> Json | None:
    """Of the stage that runs; None where none does or it does not answer."""
    address = running_pod_ip(world)
    return await read_progress(address) if address else None


async def read_progress(address: str) -> Json | None:
    host = f"[{address}]" if ":" in address else address
    try:
        async with (
            aiohttp.ClientSession(timeout=PROGRESS_TIMEOUT) as session,
            session.get(f"http://{host}:{names.PROGRESS_PORT}/progress") as response,
        ):
            answer = await response.json(content_type=None)
            return answer if response.ok and isinstance(answer, dict) else None
    except (aiohttp.ClientError, TimeoutError, ValueError, OSError):
        return None


CONTROLLER: Final = Controller("FineTuneJob", observe, plan)
