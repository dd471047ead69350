"""How long the operator takes from its start until it is ready, with many FineTuneJobs in the API server."""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from bench import audit
from bench.figures import mebibytes, seconds, table
from bench.load import create_all
from bench.ours import COMMAND, operator, tuneyard
from bench.processes import load_average
from bench.scale import have_children, quiet, watched
from support.apiserver import ApiServer, api_server

BAR: Final = 3.0  # seconds
FILL_SECONDS: Final = 900.0
PAUSE_SECONDS: Final = 2.0  # between two starts: the API server ends the watches of the one before


class Start(NamedTuple):
    ready: float  # seconds until /readyz answers 200
    cpu: float  # seconds until then, user and system together
    rss: int  # bytes then
    peak: int


async def fill(server: ApiServer, count: int) -> None:
    """Each FineTuneJob has the children and the status that the operator gives it."""
    subject = tuneyard(server)
    async with watched(server, subject) as field:
        with subject.run() as programs:
            await asyncio.to_thread(programs[0].wait_ready)
            names = [f"job-{number:05}" for number in range(count)]
            await create_all(field.client, subject.parents, map(subject.parent, names))
            await have_children(field, names, FILL_SECONDS)
            await quiet(field)
            if missing := count - field.children.among(names):
                raise TimeoutError(f"{missing} FineTuneJobs have no Job after {FILL_SECONDS:.0f} s")


def start(server: ApiServer, command: Path) -> Start:
    with operator("start", server.kubeconfig, server.folder, command) as started:
        return Start(started.wait_ready(), started.cpu, started.rss, started.peak)


def report(starts: dict[str, list[Start]]) -> str:
    rows = [["operator", "/readyz after", "CPU until then", "memory then", "peak"]]
    for name, those in starts.items():
        ready, cpu = [each.ready for each in those], [each.cpu for each in those]
        memory = [mebibytes(statistics.median(each)) for each in ([it.rss for it in those], [it.peak for it in those])]
        rows.append([name, _spread(ready), _spread(cpu), *memory])
    return table(rows)


def _spread(values: Sequence[float]) -> str:
    return f"{seconds(statistics.median(values))} ({min(values):.2f} to {max(values):.2f})"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.start", description=__doc__)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--times", type=int, default=7, help="starts of each operator")
    parser.add_argument(
        "--operators", nargs="+", type=Path, default=[COMMAND], help="executables, started in turn; default: this one's"
    )
    options = parser.parse_args()
    starts: dict[str, list[Start]] = {str(each): [] for each in options.operators}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, api_server(Path(folder) / "server") as server:
        audit.grant(server)
        asyncio.run(fill(server, options.jobs))
        for _ in range(options.times):
            for name, those in starts.items():
                time.sleep(PAUSE_SECONDS)
                those.append(start(server, Path(name)))
                print(f"{name}: {those[-1]}; load average {load_average()}", flush=True)
    print(report(starts))
    return 0 if statistics.median(each.ready for each in starts[str(options.operators[-1])]) < BAR else 1


if __name__ == "__main__":
    raise SystemExit(main())
