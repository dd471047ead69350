"""A storm from its beginning to its end: what both the engine's and the cluster's have in common."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from chaos.api import Access, Api
from chaos.faults import Entry, Fault, Scene, storm
from chaos.invariants import ends_as_expected, is_quiet, no_orphans, violations
from chaos.operators import OperatorProcess
from chaos.proxy import FaultProxy
from chaos.recorder import Recorder
from support.apiserver import client_config, free_ports

SEED: Final = int(os.environ.get("TUNEYARD_CHAOS_SEED", "1"))
BLOWS: Final = 200
CHECK_SECONDS: Final = 15.0
REST_SECONDS: Final = 5.0


class Arena(NamedTuple):
    """Where a storm is held."""

    scene: Scene
    recorder: Recorder
    folder: Path  # everything that is written lies there


@asynccontextmanager
async def arena(
    kubeconfig: Path, token: str, namespace: str, environment: Mapping[str, str], folder: Path
) -> AsyncIterator[Arena]:
    """Two operators with that token behind the proxy, and the recorder beside it."""
    api, proxy = Api(Access.of(kubeconfig)), FaultProxy(Access.for_others(kubeconfig))
    await proxy.start()
    config = folder / "kubeconfig"
    config.write_text(json.dumps(client_config(proxy.url, token)))
    operators = [
        OperatorProcess(
            f"operator-{index}",
            folder,
            config,
            {**environment, "TUNEYARD_HEALTH_PORT": str(port), "TUNEYARD_POD_NAME": f"operator-{index}"},
        )
        for index, port in enumerate(free_ports(2))
    ]
    recorder = Recorder(api, folder / "history.jsonl", namespace)
    scene = Scene(api, proxy, operators, namespace)
    running = [asyncio.create_task(work) for work in (recorder.run(), *(each.run() for each in operators))]
    try:
        yield Arena(scene, recorder, folder)
    finally:
        await end(running)
        await end(scene.under_way.values())
        await proxy.stop()
        await api.close()


async def end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancels them and waits for their last acts."""
    listed = list(tasks)
    for task in listed:
        task.cancel()
    await asyncio.gather(*listed, return_exceptions=True)


async def endure(
    arena: Arena,
    faults: Sequence[Fault],
    pause: float,
    work: Coroutine[Any, Any, None],
    expected: Mapping[tuple[str, str], str],
    settle_seconds: float,
) -> list[Entry]:
    """The storm over the work; afterwards all comes to its expected end, nothing is left over, and there is quiet.

    Raises AssertionError with everything that is wrong.
    """
    scene, recorder, folder = arena
    working = asyncio.create_task(work)
    storming = asyncio.create_task(storm(scene, faults, SEED, BLOWS, pause, folder / "faults.jsonl"))
    try:
        await _watch_over(arena, storming)
        await working
        await scene.calm()
        await settle(arena, lambda: ends_as_expected(recorder.history(), expected), settle_seconds)
        await settle(arena, lambda: no_orphans(recorder.history()), settle_seconds)
        resting = time.time()
        await asyncio.sleep(REST_SECONDS)
        hold(arena, violations(recorder.history()) + is_quiet(recorder.history(), resting))
        return storming.result()
    finally:
        await end([working, storming])


async def _watch_over(arena: Arena, storming: asyncio.Task[list[Entry]]) -> None:
    """Until the storm is over; what must hold at every moment is looked at in its midst."""
    while not storming.done():
        await asyncio.wait({storming}, timeout=CHECK_SECONDS)
        hold(arena, await asyncio.to_thread(violations, arena.recorder.history()))
    storming.result()


async def settle(arena: Arena, wrong: Callable[[], list[str]], seconds: float) -> None:
    """Until nothing is wrong any more; fails with what is when that takes too long."""
    deadline = time.monotonic() + seconds
    while (found := await asyncio.to_thread(wrong)) and time.monotonic() < deadline:
        await asyncio.sleep(0.5)
    hold(arena, found)


def hold(arena: Arena, wrong: Sequence[str]) -> None:
    assert not wrong, "\n".join([f"seed {SEED}, see {arena.folder}:", *wrong])
