"""How long it takes until the standby leads after the leader is killed, and whether anything is created twice.

Each kill takes about 20 seconds.
"""

import argparse
import json
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple
from urllib.error import HTTPError

from bench.figures import percentile
from bench.ours import fine_tune_job, model_server, operator
from support.apiserver import ApiServer, Json, api_server
from tuneyard_operator.machinery.lease import DEFAULT

LEASE: Final = "/apis/coordination.k8s.io/v1/namespaces/default/leases/tuneyard"
OURS: Final = "/apis/tuneyard.dev/v1alpha1/namespaces/default"
EVENTS: Final = "/api/v1/namespaces/default/events"
CRASH_BAR: Final = DEFAULT.lease + 2.0  # seconds
HANDOVER_BAR: Final = 1.0
POLL_SECONDS: Final = 0.01
AUDIT_POLICY: Final = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {
            "level": "RequestResponse",
            "verbs": ["create", "patch", "delete"],
            "resources": [{"group": "batch", "resources": ["jobs"]}, {"group": "apps", "resources": ["deployments"]}],
        },
        {"level": "RequestResponse", "verbs": ["create"], "resources": [{"group": "", "resources": ["events"]}]},
    ],
}


def run(server: ApiServer, kills: Sequence[signal.Signals], seed: int) -> list[float]:
    """For each kill, the seconds until the Lease names the standby."""
    chance = random.Random(seed)  # noqa: S311 - not a secret
    with ExitStack() as running:
        leader = running.enter_context(operator("operator-0", server.kubeconfig, server.folder))
        wait_until(lambda: holder(server).startswith("operator-0_"))
        times: list[float] = []
        for count, kill in enumerate(kills, 1):
            standby = running.enter_context(operator(f"operator-{count}", server.kubeconfig, server.folder))
            standby.wait_ready()
            time.sleep(chance.uniform(0, 2 * DEFAULT.retry))
            server.request("POST", f"{OURS}/finetunejobs", fine_tune_job(f"job-{count}"))
            server.request("POST", f"{OURS}/modelservers", model_server(f"server-{count}"))
            time.sleep(chance.uniform(0, 0.1))  # during their first reconciles
            leader.process.send_signal(kill)
            times.append(wait_until(lambda name=f"{standby.name}_": holder(server).startswith(name)))  # type: ignore[misc]
            print(f"{count:3} {kill.name} {times[-1]:6.2f} s", flush=True)
            leader = standby
        for path in ("batch/v1/namespaces/default/jobs", "apps/v1/namespaces/default/deployments"):
            wait_until(lambda path=path: len(server.request("GET", f"/apis/{path}")["items"]) == len(kills))  # type: ignore[misc]
        time.sleep(3)  # for a second object of the same parent to appear
    return times


def holder(server: ApiServer) -> str:
    """The holder of the Lease; empty where there is no Lease yet."""
    try:
        return str(server.request("GET", LEASE)["spec"].get("holderIdentity", ""))
    except HTTPError as error:
        if error.code == 404:
            return ""
        raise


def wait_until(is_reached: Callable[[], bool], limit: float = 60.0) -> float:
    """Returns the seconds that it took."""
    began = time.monotonic()
    while not is_reached():
        if time.monotonic() - began > limit:
            raise TimeoutError(f"not within {limit:.0f} s")
        time.sleep(POLL_SECONDS)
    return time.monotonic() - began


class Writes(NamedTuple):
    """From the audit log."""

    created: Counter[str]  # how often each Job, Deployment and event was created
    deleted: list[str]  # Jobs and Deployments


def writes(server: ApiServer) -> Writes:
    found = Writes(Counter(), [])
    for line in server.audit_log.read_text().splitlines():
        entry = json.loads(line)
        reference = entry["objectRef"]
        if entry["verb"] == "delete":
            found.deleted.append(f"{reference['resource']} {reference['name']}")
        elif entry["responseStatus"]["code"] == 201:
            found.created[f"{reference['resource']} {description(entry['responseObject'])}"] += 1
    return found


def description(obj: Json) -> str:
    """The name of an object; an event has a generated name, so its content identifies it."""
    if obj["kind"] == "Event":
        return f"{obj['involvedObject']['name']} {obj['reason']} {obj['message']}"
    return str(obj["metadata"]["name"])


def print_summary(title: str, times: Sequence[float], bar: float) -> bool:
    """Returns whether the bar is met."""
    p95 = percentile(times, 95)
    print(
        f"{title}: {len(times)} times, min {min(times):.2f}, p50 {statistics.median(times):.2f}, p95 {p95:.2f}, "
        f"max {max(times):.2f} s; bar: p95 under {bar:.0f} s"
    )
    return p95 < bar


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.failover", description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--terminations", type=int, default=5)
    parser.add_argument("--seed", type=int, default=13)
    options = parser.parse_args()
    kills = [signal.SIGTERM] * options.terminations + [signal.SIGKILL] * options.kills
    with (
        tempfile.TemporaryDirectory() as folder,
        api_server(Path(folder) / "cluster", audit_policy=AUDIT_POLICY) as server,
    ):
        server.install_crds()
        times = run(server, kills, options.seed)
        created, deleted = writes(server)
        # Not from the audit log, which has 504 for events that were stored while their writer was killed.
        with_events = {event["involvedObject"]["name"] for event in server.request("GET", EVENTS)["items"]}
    met = [
        print_summary("SIGTERM", times[: options.terminations], HANDOVER_BAR) if options.terminations else True,
        print_summary("SIGKILL", times[options.terminations :], CRASH_BAR) if options.kills else True,
    ]
    print(f"created: a Job for each of {len(kills)} FineTuneJobs, a Deployment for each of {len(kills)} ModelServers")
    repeated = [obj for obj, count in created.items() if count > 1]
    print(f"created more than once: {repeated or 'nothing'}; deleted: {deleted or 'nothing'}")
    without_events = {f"server-{count}" for count in range(1, len(kills) + 1)} - with_events
    print(f"ModelServers without an event: {sorted(without_events) or 'none'}")
    return 0 if all(met) and not repeated and not deleted and not without_events else 1


if __name__ == "__main__":
    sys.exit(main())
