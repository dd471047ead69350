"""Many FineTuneJobs at once: how soon each has its Job, at what cost, beside a peer and beside other versions."""

import argparse
import asyncio
import json
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

import aiohttp

from bench import audit, profile
from bench.figures import kibibytes, mebibytes, number, percentile, seconds, table
from bench.load import Arrivals, create, create_all, session
from bench.ours import add_against, tuneyard
from bench.processes import Program, load_average
from bench.subject import Subject
from bench.trainer import trainer
from support.apiserver import ApiServer, api_server

Install = Callable[[ApiServer], Subject]

SUBJECTS: Final[dict[str, Install]] = {"tuneyard": tuneyard, "trainer": trainer}
WARM_UP: Final = 20  # objects created before the measurement: they open connections and fill caches
QUIET_SECONDS: Final = 5.0  # without a change: the work is done
SETTLE_SECONDS: Final = 60.0
POLL_SECONDS: Final = 0.02


class Bench(NamedTuple):
    """A subject with its API server, and what the watches have seen of its objects."""

    server: ApiServer
    subject: Subject
    client: aiohttp.ClientSession
    parents: Arrivals
    children: Arrivals


@dataclass
class Cost:
    """What one program used: memory in bytes, CPU in seconds, API calls by verb and resource."""

    rss_before: int
    rss_after: int
    rss_peak: int
    cpu: float
    calls: dict[str, int]


@dataclass
class Result:
    """One measurement of one subject. Times are in seconds, from the first object on unless noted."""

    subject: str
    machine_load: str  # before and after
    accepted: float  # the API server has all objects
    done: float  # the last child was seen
    latencies: list[float]  # from each object to its child; an object without a child is left out
    costs: dict[str, Cost]  # by program
    ready: float = 0.0  # from the restart with all objects to /readyz
    ready_cpu: float = 0.0  # CPU seconds of the first program until then
    served: float = 0.0  # from the restart until an object created meanwhile has its child


async def measure(server: ApiServer, subject: Subject, count: int, limit: float, profiled: Path | None) -> Result:
    """Creates `count` objects, waits up to `limit` seconds for their children, and restarts the programs."""
    async with watched(server, subject) as bench:
        with subject.run() as programs:
            await asyncio.to_thread(programs[0].wait_ready)
            await warm_up(bench)
            with profile.recorded(programs[0], profiled):
                result = await under_load(bench, programs, count, limit)
        with subject.run() as programs:
            (result.ready, result.ready_cpu), result.served = await asyncio.gather(
                asyncio.to_thread(until_ready, programs[0]), first_child(bench, programs[0].started, limit)
            )
    return result


@asynccontextmanager
async def watched(server: ApiServer, subject: Subject) -> AsyncIterator[Bench]:
    parents, children = Arrivals(), Arrivals()
    async with session(server) as client, asyncio.TaskGroup() as watches:
        tasks = [
            watches.create_task(parents.watch(client, subject.parents, by_owner=False)),
            watches.create_task(children.watch(client, subject.jobs, by_owner=True)),
        ]
        yield Bench(server, subject, client, parents, children)
        for task in tasks:
            task.cancel()


async def warm_up(bench: Bench) -> None:
    names = [f"warm-{index}" for index in range(WARM_UP)]
    await create_all(bench.client, bench.subject.parents, map(bench.subject.parent, names))
    await wait_for_children(bench, names, SETTLE_SECONDS)
    await wait_until_quiet(bench)


async def under_load(bench: Bench, programs: list[Program], count: int, limit: float) -> Result:
    names = [f"job-{index:05}" for index in range(count)]
    load_before, since, began = load_average(), audit.now(), time.monotonic()
    before = [(one.rss, one.cpu) for one in programs]
    await create_all(bench.client, bench.subject.parents, map(bench.subject.parent, names))
    accepted = time.monotonic() - began
    await wait_for_children(bench, names, limit)
    await wait_until_quiet(bench)
    calls = calls_by_program(bench.server, since)
    costs = {
        one.name: Cost(rss, one.rss, one.peak, one.cpu - cpu, dict(calls.get(one.name, {})))
        for one, (rss, cpu) in zip(programs, before, strict=True)
    }
    created, children = bench.parents.at, bench.children.at
    latencies = [children[name] - created[name] for name in names if name in children]
    done = max(children[name] for name in names if name in children) - began
    return Result(bench.subject.name, f"{load_before} / {load_average()}", accepted, done, latencies, costs)


async def wait_for_children(bench: Bench, names: list[str], limit: float) -> None:
    """Returns after `limit` seconds at the latest: the report counts the objects that have no child by then."""
    end = time.monotonic() + limit
    missing = set(names)
    while missing and time.monotonic() < end:
        await asyncio.sleep(POLL_SECONDS)
        missing.difference_update(bench.children.at)


async def wait_until_quiet(bench: Bench) -> None:
    end = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < min(end, max(bench.parents.last_change, bench.children.last_change) + QUIET_SECONDS):
        await asyncio.sleep(POLL_SECONDS)


def calls_by_program(server: ApiServer, since: datetime) -> dict[str, Counter[str]]:
    found: dict[str, Counter[str]] = {}
    for call in audit.calls(server.audit_log, since, audit.now()):
        found.setdefault(call.program, Counter())[f"{call.verb} {call.resource}"] += 1
    return found


def until_ready(program: Program) -> tuple[float, float]:
    """Seconds until the program is ready, and the CPU seconds that it used until then."""
    return program.wait_ready(), program.cpu


async def first_child(bench: Bench, started: float, limit: float) -> float:
    """Seconds from `started` until an object that is created now has its child; infinite where it gets none."""
    await create(bench.client, bench.subject.parents, bench.subject.parent("after-restart"))
    await wait_for_children(bench, ["after-restart"], limit)
    return bench.children.at.get("after-restart", float("inf")) - started


class Figure(NamedTuple):
    """One row of the report: its value in a result of that many objects, and how it is written."""

    value: Callable[[Result, int], float]
    written: Callable[[float], str]


def total(result: Result, value: Callable[[Cost], float]) -> float:
    """The sum over the programs."""
    return sum(value(cost) for cost in result.costs.values())


FIGURES: Final[dict[str, Figure]] = {
    "all objects accepted after": Figure(lambda it, _: it.accepted, seconds),
    "last Job after": Figure(lambda it, _: it.done, seconds),
    "Jobs per second": Figure(lambda it, _: len(it.latencies) / it.done, number),
    "object to Job, p50": Figure(lambda it, _: percentile(it.latencies, 50), seconds),
    "object to Job, p95": Figure(lambda it, _: percentile(it.latencies, 95), seconds),
    "object to Job, p99": Figure(lambda it, _: percentile(it.latencies, 99), seconds),
    "API calls per object": Figure(lambda it, n: total(it, lambda cost: sum(cost.calls.values())) / n, number),
    "memory per object": Figure(lambda it, n: total(it, lambda cost: cost.rss_after - cost.rss_before) / n, kibibytes),
    "memory, all programs": Figure(lambda it, _: total(it, lambda cost: cost.rss_after), mebibytes),
    "CPU, all programs": Figure(lambda it, _: total(it, lambda cost: cost.cpu), seconds),
    "restart: /readyz after": Figure(lambda it, _: it.ready, seconds),
    "restart: CPU until then": Figure(lambda it, _: it.ready_cpu, seconds),
    "restart: a new object's Job after": Figure(lambda it, _: it.served, seconds),
}


def report(measured: Sequence[Sequence[Result]], count: int) -> str:
    """`measured`: the results of each subject, one for each round."""
    rows = [["", *(results[0].subject for results in measured)]]
    rows.append(["Jobs created", *(f"{min(len(it.latencies) for it in results)} of {count}" for results in measured)])
    for title, (value, written) in FIGURES.items():
        rows.append([title, *(written(median(value(it, count) for it in results)) for results in measured)])
    loads = ["; ".join(it.machine_load for it in results) for results in measured]
    rows.append(["load average before / after", *loads])
    return "\n\n".join([table(rows), *(cost_table(results, count) for results in measured)])


def cost_table(results: Sequence[Result], count: int) -> str:
    """The programs of one subject."""
    rows = [["program", "RSS before", "RSS after", "peak", "per object", "CPU", "calls per object"]]
    for name in results[0].costs:
        costs = [result.costs[name] for result in results]
        before, after = median(it.rss_before for it in costs), median(it.rss_after for it in costs)
        memory = [mebibytes(before), mebibytes(after), mebibytes(median(it.rss_peak for it in costs))]
        calls = sum((Counter(it.calls) for it in costs), Counter[str]())
        rates = ", ".join(f"{call} {made / count / len(costs):.2f}" for call, made in calls.most_common(8))
        cpu = seconds(median(it.cpu for it in costs))
        rows.append([name, *memory, kibibytes((after - before) / count), cpu, rates])
    return f"{results[0].subject}\n\n{table(rows)}"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--subjects", nargs="+", choices=SUBJECTS, default=list(SUBJECTS), help="in this order")
    add_against(parser)
    parser.add_argument("--rounds", type=int, default=1, help="measurements of each subject; the report has medians")
    parser.add_argument("--limit", type=float, default=900.0, help="seconds to wait for the Jobs")
    parser.add_argument("--profile", type=Path, help="py-spy's samples of the first measurement; needs py-spy in PATH")
    parser.add_argument("--json", type=Path, help="file for the results, with the latency of each object")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    installs: list[Install] = [SUBJECTS[name] for name in options.subjects]
    installs += [partial(tuneyard, version=version) for version in options.against]
    measured: list[list[Result]] = [[] for _ in installs]
    for turn in range(options.rounds):
        # Every other round goes backwards, so that a machine that slows down favours nobody.
        order = list(zip(installs, measured, strict=True))[:: -1 if turn % 2 else 1]
        for install, results in order:
            profiled = options.profile if not any(measured) else None
            with (
                tempfile.TemporaryDirectory(prefix="bench-") as folder,
                api_server(Path(folder) / "server", audit_policy=audit.POLICY) as server,
            ):
                audit.grant(server)
                results.append(asyncio.run(measure(server, install(server), options.jobs, options.limit, profiled)))
            print(f"{results[-1].subject}: last Job after {seconds(results[-1].done)}", flush=True)
    if options.json:
        options.json.write_text(json.dumps([asdict(result) for results in measured for result in results]))
    print(report(measured, options.jobs))


if __name__ == "__main__":
    main()
