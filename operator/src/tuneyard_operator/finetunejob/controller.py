"""Observes a FineTuneJob: its Jobs, their pods, and what the running stage answers."""

from datetime import UTC, datetime
from typing import Final

import aiohttp

from tuneyard_api import names
from tuneyard_operator.finetunejob.observe import World, is_suspended, own_jobs, pods_wanted, running_pod_ip
from tuneyard_operator.finetunejob.plan import plan
from tuneyard_operator.machinery import metrics
from tuneyard_operator.machinery.cache import Reader
from tuneyard_operator.machinery.conditions import parse_time
from tuneyard_operator.machinery.objects import Json, is_condition_true, key_of, owned_by, uid
from tuneyard_operator.machinery.reconcile import Controller

PROGRESS_TIMEOUT: Final = aiohttp.ClientTimeout(total=2)  # seconds
POD_SECONDS: Final = 5  # a Job that has no pod by then is asked why


async def observe(cluster: Reader, job: Json, since_write: float) -> World:
    world = World(
        job=job,
        jobs=cluster.children("Job", key_of(job)),
        pods=cluster.children("Pod", key_of(job)),
        services=cluster.children("Service", key_of(job)),
        since_write=since_write,
        silence=cluster.silence(key_of(job)),
    )
    return world._replace(warnings=_warnings(cluster, world), progress=await _progress(world))


def _warnings(cluster: Reader, world: World) -> dict[str, str]:
    """Why Jobs have no pods, by the Jobs' uids: admission and quotas are told in events only."""
    return {uid(job): cluster.warning(uid(job)) for job in own_jobs(world) if _lacks_pod(job, world.pods)}


def _lacks_pod(job: Json, pods: list[Json]) -> bool:
    age = (datetime.now(UTC) - parse_time(job["metadata"]["creationTimestamp"])).total_seconds()
    over = is_condition_true(job, "Complete") or is_condition_true(job, "Failed")
    there = sum(owned_by(pod, uid(job)) for pod in pods)
    return not over and not is_suspended(job) and age > POD_SECONDS and there < pods_wanted(job)


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


def measure(before: Json, after: Json) -> None:
    """How long the stages took that have just succeeded."""
    done = {stage["name"] for stage in before.get("stages", []) if stage["state"] == "Succeeded"}
    for stage in after.get("stages", []):
        if (
            stage["state"] == "Succeeded"
            and stage["name"] not in done
            and "startedAt" in stage
            and "finishedAt" in stage
        ):
            took = parse_time(stage["finishedAt"]) - parse_time(stage["startedAt"])
            metrics.STAGES.labels(stage["name"]).observe(took.total_seconds())


CONTROLLER: Final = Controller("FineTuneJob", observe, plan, measure)
