"""Many FineTuneJobs at once: how soon each has its Job, and what that costs; beside it, the same of a peer."""

import argparse
import asyncio
import json
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple

import aiohttp

from bench import audit, profile
from bench.figures import kibibytes, mebibytes, percentile, seconds, table
from bench.load import Arrivals, create, create_all, delete_all, session
from bench.ours import tuneyard
from bench.processes import Program, load_average
from bench.subject import Subject
from bench.trainer import trainer
from support.apiserver import ApiServer, api_server

SUBJECTS: Final[dict[str, Callable[[ApiServer], Subject]]] = {"tuneyard": tuneyard, "trainer": trainer}
WARM: Final = 20  # objects before the clock starts: then connections, imports and caches are there
QUIET_SECONDS: Final = 5.0  # without a change: the work is done
SETTLE_SECONDS: Final = 60.0
LOOK_SECONDS: Final = 0.02


class Field(NamedTuple):
    """Where it is measured."""

    server: ApiServer
    subject: Subject
    client: aiohttp.ClientSession
    parents: Arrivals
    children: Arrivals


@dataclass
class Cost:
    """Of one program; memory in bytes, CPU in seconds."""

    rss_before: int
    rss_after: int
    rss_peak: int
    cpu: float
    calls: dict[str, int]


@dataclass
class Result:
    """Times in seconds, from the first object on where nothing else is said."""

    subject: str
    machine_load: str  # before and after
    accepted: float  # the API server has all objects
    done: float  # the last child is seen
    latencies: list[float]  # from each object to its child
    costs: dict[str, Cost]
    ready: float = 0.0  # from a restart with all objects to /readyz
    ready_cpu: float = 0.0  # CPU seconds that this took the first program
    served: float = 0.0  # from that restart until an object made then has its child


async def measure(server: ApiServer, subject: Subject, count: int, limit: float, profiled: Path | None) -> Result:
    async with watched(server, subject) as field:
        with subject.run() as programs:
            await asyncio.to_thread(programs[0].wait_ready)
            await warm_up(field)
            with profile.recorded(programs[0], profiled):
                result = await under_load(field, programs, count, limit)
        with subject.run() as programs:
            (result.ready, result.ready_cpu), result.served = await asyncio.gather(
                asyncio.to_thread(until_ready, programs[0]), one_more(field, programs[0].started, limit)
            )
    async with session(server) as client:
        for path in subject.collections:
            await delete_all(client, path)
    return result


@asynccontextmanager
async def watched(server: ApiServer, subject: Subject) -> AsyncIterator[Field]:
    parents, children = Arrivals(), Arrivals()
    async with session(server) as client, asyncio.TaskGroup() as watches:
        tasks = [
            watches.create_task(parents.watch(client, subject.parents, by_owner=False)),
            watches.create_task(children.watch(client, subject.jobs, by_owner=True)),
        ]
        yield Field(server, subject, client, parents, children)
        for task in tasks:
            task.cancel()


async def warm_up(field: Field) -> None:
    names = [f"warm-{number}" for number in range(WARM)]
    await create_all(field.client, field.subject.parents, map(field.subject.parent, names))
    await have_children(field, names, SETTLE_SECONDS)
    await quiet(field)


async def under_load(field: Field, programs: list[Program], count: int, limit: float) -> Result:
    names = [f"job-{number:05}" for number in range(count)]
    busy, since, began = load_average(), audit.now(), time.monotonic()
    before = [(each.rss, each.cpu) for each in programs]
    await create_all(field.client, field.subject.parents, map(field.subject.parent, names))
    accepted = time.monotonic() - began
    await have_children(field, names, limit)
    await quiet(field)
    calls = calls_of(field.server, since)
    costs = {
        each.name: Cost(rss, each.rss, each.peak, each.cpu - cpu, dict(calls.get(each.name, {})))
        for each, (rss, cpu) in zip(programs, before, strict=True)
    }
    born, seen = field.parents.at, field.children.at
    latencies = [seen[name] - born[name] for name in names if name in seen]
    done = max(seen[name] for name in names if name in seen) - began
    return Result(field.subject.name, f"{busy} / {load_average()}", accepted, done, latencies, costs)


async def have_children(field: Field, names: list[str], limit: float) -> None:
    """Waits no longer than the limit: who has not all by then is reported with what it has."""
    end = time.monotonic() + limit
    missing = set(names)
    while missing and time.monotonic() < end:
        await asyncio.sleep(LOOK_SECONDS)
        missing.difference_update(field.children.at)


async def quiet(field: Field) -> None:
    end = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < min(end, max(field.parents.last_change, field.children.last_change) + QUIET_SECONDS):
        await asyncio.sleep(LOOK_SECONDS)


def calls_of(server: ApiServer, since: datetime) -> dict[str, Counter[str]]:
    found: dict[str, Counter[str]] = {}
    for call in audit.calls(server.audit_log, since, audit.now()):
        found.setdefault(call.program, Counter())[f"{call.verb} {call.resource}"] += 1
    return found


def until_ready(program: Program) -> tuple[float, float]:
    """Seconds, and CPU seconds."""
    return program.wait_ready(), program.cpu


async def one_more(field: Field, started: float, limit: float) -> float:
    await create(field.client, field.subject.parents, field.subject.parent("one-more"))
    await have_children(field, ["one-more"], limit)
    return field.children.at.get("one-more", float("inf")) - started


def report(results: list[Result], count: int) -> str:
    rows = [["", *(each.subject for each in results)]]
    for title, value in FIGURES.items():
        rows.append([title, *(value(each, count) for each in results)])
    return "\n\n".join([table(rows), *(costs(each, count) for each in results)])


FIGURES: Final[dict[str, Callable[[Result, int], str]]] = {
    "Jobs made": lambda it, count: f"{len(it.latencies)} of {count}",
    "all objects accepted after": lambda it, _: seconds(it.accepted),
    "last Job after": lambda it, _: seconds(it.done),
    "Jobs a second": lambda it, _: f"{len(it.latencies) / it.done:.1f}",
    "object to Job, p50": lambda it, _: seconds(percentile(it.latencies, 50)),
    "object to Job, p95": lambda it, _: seconds(percentile(it.latencies, 95)),
    "object to Job, p99": lambda it, _: seconds(percentile(it.latencies, 99)),
    "API calls an object": lambda it, count: f"{sum(sum(c.calls.values()) for c in it.costs.values()) / count:.2f}",
    "memory an object": lambda it, count: kibibytes(sum(c.rss_after - c.rss_before for c in it.costs.values()) / count),
    "memory, all programs": lambda it, _: mebibytes(sum(c.rss_after for c in it.costs.values())),
    "CPU, all programs": lambda it, _: seconds(sum(c.cpu for c in it.costs.values())),
    "restart: /readyz after": lambda it, _: seconds(it.ready),
    "restart: CPU until then": lambda it, _: seconds(it.ready_cpu),
    "restart: a new object's Job after": lambda it, _: seconds(it.served),
    "load average before / after": lambda it, _: it.machine_load,
}


def costs(result: Result, count: int) -> str:
    rows = [["program", "RSS before", "after", "peak", "an object", "CPU", "calls an object"]]
    for name, cost in result.costs.items():
        calls = ", ".join(f"{verb} {made / count:.2f}" for verb, made in Counter(cost.calls).most_common(8))
        memory = [mebibytes(cost.rss_before), mebibytes(cost.rss_after), mebibytes(cost.rss_peak)]
        each = kibibytes((cost.rss_after - cost.rss_before) / count)
        rows.append([name, *memory, each, seconds(cost.cpu), calls])
    return table(rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--subjects", nargs="+", choices=SUBJECTS, default=list(SUBJECTS), help="in this order")
    parser.add_argument("--limit", type=float, default=900.0, help="seconds until what has no Job is given up")
    parser.add_argument("--profile", type=Path, help="py-spy's samples of the first subject; needs py-spy in PATH")
    parser.add_argument("--json", type=Path, help="where the figures go, each latency among them")
    options = parser.parse_args()
    results: list[Result] = []
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        api_server(Path(folder) / "server", audit_policy=audit.POLICY) as server,
    ):
        audit.grant(server)
        for subject in [SUBJECTS[name](server) for name in options.subjects]:
            profiled = options.profile if not results else None
            results.append(asyncio.run(measure(server, subject, options.jobs, options.limit, profiled)))
    if options.json:
        options.json.write_text(json.dumps([asdict(each) for each in results]))
    print(report(results, options.jobs))


if __name__ == "__main__":
    main()
