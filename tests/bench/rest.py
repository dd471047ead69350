"""FineTuneJobs and ModelServers at rest: what the operator still asks of the API server."""

import argparse
import asyncio
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta
from itertools import cycle
from pathlib import Path
from typing import Any, Final

import aiohttp

from bench import audit
from bench.figures import table
from bench.load import create_all, session
from bench.ours import NAME, NAMESPACE, OURS, THIS, Checkout, add_against, fine_tune_job, model_server, tuneyard
from bench.processes import load_average
from support.apiserver import ApiServer, Json, api_server
from tuneyard_api.runs import revision
from tuneyard_api.stages import STAGES

JOBS: Final = 1000
SERVERS: Final = 200
CONNECTIONS: Final = 16
MERGE: Final = "application/merge-patch+json"
QUIET_SECONDS: Final = 60  # without a write: the operator is at rest
SETTLE_SECONDS: Final = 900
READS_PER_MINUTE: Final = 1.0  # the bar, with no write at all
JOBS_PATH: Final = f"{OURS}/finetunejobs"
DEPLOYMENTS_PATH: Final = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"


async def create_objects(client: aiohttp.ClientSession) -> None:
    """A third of the FineTuneJobs has succeeded, a third has failed, and a third waits for its pods."""
    names = [f"job-{index:04}" for index in range(JOBS)]
    await create_all(client, JOBS_PATH, map(fine_tune_job, names))
    created = {job["metadata"]["name"]: job for job in await list_all(client, JOBS_PATH)}
    statuses = {
        f"{JOBS_PATH}/{name}": status | {"revision": revision(created[name])}
        for name, status in zip(names, cycle(STATUSES))
        if status
    }
    await patch_statuses(client, statuses)
    await create_all(client, f"{OURS}/modelservers", (model_server(f"server-{index:03}") for index in range(SERVERS)))


async def play_deployment_controller(client: aiohttp.ClientSession) -> None:
    """Reports all replicas of all Deployments as ready, until every ModelServer has a Deployment."""
    while True:
        found = await list_all(client, DEPLOYMENTS_PATH)
        await patch_statuses(client, {f"{DEPLOYMENTS_PATH}/{one['metadata']['name']}": ready(one) for one in found})
        if len(found) == SERVERS:
            return
        await asyncio.sleep(1)


async def list_all(client: aiohttp.ClientSession, path: str) -> list[Json]:
    async with client.get(path) as answer:
        items: list[Json] = (await answer.json())["items"]
        return items


async def patch_statuses(client: aiohttp.ClientSession, statuses: dict[str, Json]) -> None:
    """Writes the status of the object at each path."""
    waiting = iter(statuses.items())

    async def work() -> None:
        for path, status in waiting:
            body, headers = {"status": status}, {"Content-Type": MERGE}
            async with client.patch(f"{path}/status", json=body, headers=headers) as answer:
                if answer.status != 200:
                    raise RuntimeError(f"{path}: {await answer.text()}")

    async with asyncio.TaskGroup() as group:
        for _ in range(CONNECTIONS):
            group.create_task(work())


def ready(deployment: Json) -> Json:
    """The status of a Deployment whose replicas are all ready."""
    replicas = deployment["spec"]["replicas"]
    counts = dict.fromkeys(("replicas", "readyReplicas", "availableReplicas", "updatedReplicas"), replicas)
    return {"observedGeneration": deployment["metadata"]["generation"], **counts}


def ended(phase: str, stages: list[str], conditions: list[Json], **more: Any) -> Json:
    """The status of a FineTuneJob that has ended, as the operator writes it."""
    return {
        "observedGeneration": 1,
        "phase": phase,
        "conditions": conditions,
        "stages": [{"name": name, "state": state} for name, state in zip(STAGES, stages, strict=True)],
        "restarts": {"preempted": 0, "failed": 0},
        **more,
    }


def condition(kind: str, status: str, reason: str, message: str = "") -> Json:
    text = {"type": kind, "status": status, "reason": reason, "message": message}
    return text | {"observedGeneration": 1, "lastTransitionTime": audit.now().strftime("%Y-%m-%dT%H:%M:%SZ")}


ARTIFACT: Final[Json] = {
    "format": "bf16",
    "uri": "s3://artifacts/support-bot/bf16",
    "digest": f"sha256:{'a' * 64}",
    "sizeBytes": 7,
    "perplexity": 3.5,
}
GATE_FAILED: Final = ("GateFailed", "perplexity 9.1 is above 8.0")
STATUSES: Final[list[Json]] = [
    ended("Succeeded", ["Succeeded"] * 5, [condition("Succeeded", "True", "Completed")], artifacts=[ARTIFACT]),
    ended(
        "Failed",
        ["Succeeded", "Succeeded", "Succeeded", "Failed", "Pending"],
        [condition("Succeeded", "False", *GATE_FAILED), condition("Failed", "True", *GATE_FAILED)],
    ),
    {},
]


async def wait_for_rest(log: Path) -> None:
    """Returns when the operator has written nothing for a while."""
    end = audit.now() + timedelta(seconds=SETTLE_SECONDS)
    while audit.now() < end:
        await asyncio.sleep(QUIET_SECONDS)
        now = audit.now()
        if not any(call.verb in audit.WRITES for call in calls(log, now - timedelta(seconds=QUIET_SECONDS), now)):
            return
    raise TimeoutError(f"the operator still writes after {SETTLE_SECONDS} s")


def calls(log: Path, since: datetime, until: datetime) -> Iterator[audit.Call]:
    """The operator's calls, without those that renew the Lease: their number does not depend on the objects."""
    return (call for call in audit.calls(log, since, until) if call.program == NAME and call.resource != "leases")


async def rest(server: ApiServer, version: Checkout, minutes: float) -> list[audit.Call]:
    """The calls of that version's operator in that many minutes at rest."""
    subject = tuneyard(server, version)
    async with session(server) as client:
        await create_objects(client)
        with subject.run() as (operator,):
            await asyncio.to_thread(operator.wait_ready)
            await play_deployment_controller(client)
            await wait_for_rest(server.audit_log)
            phases = Counter(job.get("status", {}).get("phase", "none") for job in await list_all(client, JOBS_PATH))
            print(f"{version.name} is at rest; phases: {dict(phases)}", flush=True)
            since = audit.now()
            await asyncio.sleep(minutes * 60)
            return list(calls(server.audit_log, since, audit.now()))


async def rest_together(servers: list[ApiServer], versions: list[Checkout], minutes: float) -> list[list[audit.Call]]:
    """The calls of each version, all in the same minutes."""
    return await asyncio.gather(
        *(rest(server, version, minutes) for server, version in zip(servers, versions, strict=True))
    )


def report(version: Checkout, made: list[audit.Call], minutes: float) -> list[str]:
    """One row of the table."""
    writes = sum(call.verb in audit.WRITES for call in made)
    watches = sum(call.verb == "watch" for call in made)
    reads = len(made) - writes
    bar = "met" if not writes and reads / minutes < READS_PER_MINUTE else "missed"
    verbs = Counter(f"{call.verb} {call.resource}" for call in made)
    listed = ", ".join(f"{count} {verb}" for verb, count in verbs.most_common())
    return [version.name, f"{minutes:g}", str(writes), str(reads), str(watches), f"{reads / minutes:.2f}", bar, listed]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.rest", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    add_against(parser)
    options = parser.parse_args()
    versions: list[Checkout] = [THIS, *options.against]
    with ExitStack() as running:
        servers = []
        for _ in versions:
            folder = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
            servers.append(running.enter_context(api_server(folder / "server", audit_policy=audit.POLICY)))
            audit.grant(servers[-1])
        measured = asyncio.run(rest_together(servers, versions, options.minutes))
    head = ["", "minutes", "writes", "reads", "of these, new watches", "reads per minute", "bar", "calls"]
    print(table([head, *(report(*each, options.minutes) for each in zip(versions, measured, strict=True))]))
    print(f"\nThe bar: no write and less than {READS_PER_MINUTE:g} read per minute. Load average: {load_average()}")


if __name__ == "__main__":
    main()
