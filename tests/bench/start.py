"""How long the operator takes from its start until it is ready, with many FineTuneJobs in the API server."""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from bench import audit
from bench.figures import mebibytes, seconds, table
from bench.load import create_all
from bench.ours import THIS, Checkout, add_against, operator, tuneyard
from bench.processes import load_average
from bench.scale import wait_for_children, wait_until_quiet, watched
from support.apiserver import ApiServer, api_server

BAR: Final = 3.0  # seconds, for this checkout's operator
FILL_SECONDS: Final = 900.0
PAUSE_SECONDS: Final = 2.0  # between two starts: the API server closes the watches of the previous process


class Start(NamedTuple):
    ready: float  # seconds until the first 200 of /readyz
    cpu: float  # seconds until then, user and system together
    rss: int  # bytes at that time
    peak: int


@contextmanager
def filled(version: Checkout, count: int) -> Iterator[ApiServer]:
    """An API server whose FineTuneJobs have the children and the status that this version gives them."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        api_server(Path(folder) / "server") as server,
    ):
        audit.grant(server)
        asyncio.run(fill(server, version, count))
        yield server


async def fill(server: ApiServer, version: Checkout, count: int) -> None:
    subject = tuneyard(server, version)
    async with watched(server, subject) as bench:
        with subject.run() as programs:
            await asyncio.to_thread(programs[0].wait_ready)
            names = [f"job-{index:05}" for index in range(count)]
            await create_all(bench.client, subject.parents, map(subject.parent, names))
            await wait_for_children(bench, names, FILL_SECONDS)
            await wait_until_quiet(bench)
            if missing := count - bench.children.among(names):
                raise TimeoutError(f"{missing} FineTuneJobs have no Job after {FILL_SECONDS:.0f} s")


def start(server: ApiServer, command: Path) -> Start:
    with operator("start", server.kubeconfig, server.folder, command) as started:
        return Start(started.wait_ready(), started.cpu, started.rss, started.peak)


def report(measured: Sequence[tuple[Checkout, Sequence[Start]]]) -> str:
    rows = [["", "/readyz after", "CPU until then", "memory then", "peak"]]
    for version, starts in measured:
        times = [spread([one.ready for one in starts]), spread([one.cpu for one in starts])]
        memory = [statistics.median(one.rss for one in starts), statistics.median(one.peak for one in starts)]
        rows.append([version.name, *times, *map(mebibytes, memory)])
    return table(rows)


def spread(values: Sequence[float]) -> str:
    return f"{seconds(statistics.median(values))} ({min(values):.2f} to {max(values):.2f})"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.start", description=__doc__)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--times", type=int, default=7, help="starts of each operator")
    add_against(parser)
    options = parser.parse_args()
    versions: list[Checkout] = [THIS, *options.against]
    starts: list[list[Start]] = [[] for _ in versions]
    with ExitStack() as running:
        servers = [running.enter_context(filled(version, options.jobs)) for version in versions]
        for _ in range(options.times):
            for version, server, those in zip(versions, servers, starts, strict=True):
                time.sleep(PAUSE_SECONDS)
                those.append(start(server, version.command))
                print(f"{version.name}: {those[-1]}; load average {load_average()}", flush=True)
    print(report(list(zip(versions, starts, strict=True))))
    return 0 if statistics.median(one.ready for one in starts[0]) < BAR else 1


if __name__ == "__main__":
    raise SystemExit(main())
