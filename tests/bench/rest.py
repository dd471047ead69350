"""FineTuneJobs and ModelServers at rest: what the operator still asks of the API server."""

import argparse
import asyncio
import tempfile
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import cycle
from pathlib import Path
from typing import Any, Final

import aiohttp

from bench import audit
from bench.figures import table
from bench.load import create_all, session
from bench.ours import NAME, NAMESPACE, OURS, fine_tune_job, model_server, tuneyard
from bench.processes import load_average
from support.apiserver import ApiServer, Json, api_server
from support.operatorbuilders import ARTIFACT
from tuneyard_api.names import STAGES
from tuneyard_api.runs import revision
from tuneyard_operator.machinery.conditions import Condition, conditions
from tuneyard_operator.machinery.objects import name

JOBS: Final = 1000
SERVERS: Final = 200
CONNECTIONS: Final = 16
MERGE: Final = "application/merge-patch+json"
QUIET_SECONDS: Final = 60  # without a write: they are at rest
SETTLE_SECONDS: Final = 900
READS_PER_MINUTE: Final = 1.0  # the bar; no write at all
DEPLOYMENTS: Final = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"


async def bring_to_rest(server: ApiServer, client: aiohttp.ClientSession) -> None:
    """A third of the jobs has succeeded, a third failed, and a third waits for its pods; all servers serve."""
    states = dict(zip((f"job-{number:04}" for number in range(JOBS)), cycle(STATES)))
    await create_all(client, f"{OURS}/finetunejobs", map(fine_tune_job, states))
    async with client.get(f"{OURS}/finetunejobs") as answer:
        there = {name(job): job for job in (await answer.json())["items"]}
    ended = {called: STATES[state] for called, state in states.items() if STATES[state]}
    statuses = {called: status | {"revision": revision(there[called])} for called, status in ended.items()}
    await set_all(client, [(f"{OURS}/finetunejobs/{called}", status) for called, status in statuses.items()])
    await create_all(client, f"{OURS}/modelservers", (model_server(f"server-{number:03}") for number in range(SERVERS)))


async def answer_for_deployments(client: aiohttp.ClientSession) -> None:
    """All replicas are ready, as their controller would say."""
    while True:
        async with client.get(DEPLOYMENTS) as answer:
            found = (await answer.json())["items"]
        await set_all(client, [(f"{DEPLOYMENTS}/{each['metadata']['name']}", ready(each)) for each in found])
        if len(found) == SERVERS:
            return
        await asyncio.sleep(1)


async def set_all(client: aiohttp.ClientSession, wanted: list[tuple[str, Json]]) -> None:
    """Writes the status of each path."""
    waiting = iter(wanted)

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
    replicas = deployment["spec"]["replicas"]
    counts = dict.fromkeys(("replicas", "readyReplicas", "availableReplicas", "updatedReplicas"), replicas)
    return {"observedGeneration": deployment["metadata"]["generation"], **counts}


def ended(state: str, stages: list[str], *said: Condition, **more: Any) -> Json:
    """A status as the operator leaves it."""
    return {
        "observedGeneration": 1,
        "phase": state,
        "conditions": conditions(said, [], 1, audit.now()),
        "stages": [{"name": stage, "state": found} for stage, found in zip(STAGES, stages, strict=True)],
        "restarts": {"preempted": 0, "failed": 0},
        **more,
    }


FAILED: Final = ("GateFailed", "perplexity 9.1 is above 8.0")
STATES: Final[dict[str, Json]] = {
    "succeeded": ended("Succeeded", ["Succeeded"] * 5, Condition("Succeeded", True, "Completed"), artifacts=[ARTIFACT]),
    "failed": ended(
        "Failed",
        ["Succeeded", "Succeeded", "Succeeded", "Failed", "Pending"],
        Condition("Succeeded", False, *FAILED),
        Condition("Failed", True, *FAILED),
    ),
    "waits": {},
}


async def at_rest(log: Path) -> None:
    """Returns when the operator has not written for a while."""
    end = audit.now() + timedelta(seconds=SETTLE_SECONDS)
    while audit.now() < end:
        await asyncio.sleep(QUIET_SECONDS)
        now = audit.now()
        if not any(call.verb in audit.WRITES for call in made(log, now - timedelta(seconds=QUIET_SECONDS), now)):
            return
    raise TimeoutError(f"it still writes after {SETTLE_SECONDS} s")


def made(log: Path, since: datetime, until: datetime) -> Iterator[audit.Call]:
    """The operator's calls, without the leader's of its Lease: of these there are as many where there is no object."""
    return (each for each in audit.calls(log, since, until) if each.program == NAME and each.resource != "leases")


def report(log: Path, since: datetime, minutes: float) -> str:
    calls = list(made(log, since, audit.now()))
    writes = [call for call in calls if call.verb in audit.WRITES]
    watches = [call for call in calls if call.verb == "watch"]
    reads = len(calls) - len(writes)
    holds = not writes and reads / minutes < READS_PER_MINUTE
    rows = [
        ["minutes", "writes", "reads", "of these, watches begun anew", "reads a minute", "load average"],
        [f"{minutes:g}", str(len(writes)), str(reads), str(len(watches)), f"{reads / minutes:.2f}", load_average()],
    ]
    verbs = Counter(f"{call.verb} {call.resource}" for call in calls)
    listed = "\n".join(f"{count:7} {verb}" for verb, count in verbs.most_common())
    bar = f"Bar (no write, under {READS_PER_MINUTE:g} read a minute): {'kept' if holds else 'missed'}"
    return "\n\n".join([table(rows), listed, bar])


async def rest(server: ApiServer, minutes: float) -> str:
    subject = tuneyard(server)
    async with session(server) as client:
        await bring_to_rest(server, client)
        with subject.run() as (operator,):
            await asyncio.to_thread(operator.wait_ready)
            await answer_for_deployments(client)
            await at_rest(server.audit_log)
            since = audit.now()
            await asyncio.sleep(minutes * 60)
            return report(server.audit_log, since, minutes)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.rest", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        api_server(Path(folder) / "server", audit_policy=audit.POLICY) as server,
    ):
        audit.grant(server)
        print(asyncio.run(rest(server, options.minutes)))


if __name__ == "__main__":
    main()
