"""A storm over the operator in front of a real API server and real controllers; only the node is played.

The seed is TUNEYARD_CHAOS_SEED. Everything that was recorded lies in the test's folder, which a failure names.
"""

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from apiserver import TOKEN, ApiServer, api_server, free_ports
from chaos.api import Access, Api
from chaos.faults import FAULTS, Fault, Scene, storm
from chaos.invariants import ends_as_expected, is_quiet, no_orphans, violations
from chaos.kubelet import Kubelet
from chaos.operators import OperatorProcess, kubeconfig
from chaos.proxy import FaultProxy
from chaos.recorder import Recorder
from chaos.stages import Store
from chaos.workload import expected, work

SEED: Final = int(os.environ.get("TUNEYARD_CHAOS_SEED", "1"))
BLOWS: Final = 200
PAUSE_SECONDS: Final = 0.2
SETTLE_SECONDS: Final = 60.0
REST_SECONDS: Final = 5.0
NAMESPACE: Final = "default"
CONTROLLERS: Final = (
    "job-controller,deployment-controller,replicaset-controller,garbage-collector-controller,endpointslice-controller"
)


async def test_a_storm_loses_repeats_and_belies_nothing(tmp_path: Path) -> None:
    with api_server(tmp_path / "cluster", controllers=CONTROLLERS) as server:
        await asyncio.to_thread(server.install_crds)
        async with scenery(server, tmp_path) as (scene, recorder, faults):
            told = asyncio.create_task(work(scene.api, NAMESPACE, random.Random(SEED)))
            await until_seen(recorder)
            blows = await storm(scene, faults, SEED, BLOWS, PAUSE_SECONDS, tmp_path / "faults.jsonl")
            await told
            await scene.calm()
            await settle(lambda: ends_as_expected(recorder.history(), expected()))
            await settle(lambda: no_orphans(recorder.history()))
            resting = time.time()
            await asyncio.sleep(REST_SECONDS)
    wrong = violations(recorder.history()) + is_quiet(recorder.history(), resting)
    assert len(blows) == BLOWS
    assert not wrong, "\n".join([f"seed {SEED}, see {tmp_path}", *wrong])


async def until_seen(recorder: Recorder) -> None:
    """An operator has begun its work."""
    while not any("status" in each.object for each in recorder.records if each.kind == "FineTuneJob"):
        await asyncio.sleep(0.1)


async def settle(wrong: Callable[[], list[str]]) -> None:
    """Until nothing is wrong any more; fails with what is when that takes too long."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while (found := await asyncio.to_thread(wrong)) and time.monotonic() < deadline:
        await asyncio.sleep(0.5)
    assert not found, "\n".join([f"seed {SEED}", *found])


@asynccontextmanager
async def scenery(server: ApiServer, folder: Path) -> AsyncIterator[tuple[Scene, Recorder, list[Fault]]]:
    """Two operators behind the proxy, the node, and the recorder."""
    access = Access.of(server.kubeconfig)
    api, proxy = Api(access), FaultProxy(access)
    await proxy.start()
    config = kubeconfig(folder / "kubeconfig", proxy.url, TOKEN)
    images = {
        "TUNEYARD_TRAINER_IMAGE": "trainer:1",
        "TUNEYARD_SERVER_IMAGE": "server:1",
        "TUNEYARD_NAMESPACES": NAMESPACE,
    }
    operators = [
        OperatorProcess(f"operator-{port}", folder, config, images | {"TUNEYARD_HEALTH_PORT": str(port)})
        for port in free_ports(2)
    ]
    kubelet = Kubelet(api, NAMESPACE, Store(), random.Random(SEED))
    recorder = Recorder(api, folder / "history.jsonl", NAMESPACE)
    running = [asyncio.create_task(each.run()) for each in (recorder, kubelet, *operators)]
    scene = Scene(api, proxy, operators, NAMESPACE)
    try:
        yield scene, recorder, [*FAULTS, *_of_the_machine(server, kubelet)]
    finally:
        for task in [*running, *scene.under_way.values()]:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await proxy.stop()
        await api.close()


def _of_the_machine(server: ApiServer, kubelet: Kubelet) -> list[Fault]:
    async def restart_api_server(scene: Scene, _: random.Random) -> str | None:
        return scene.begin("kube-apiserver", asyncio.to_thread(server.restart))

    async def stop_kubelet(scene: Scene, dice: random.Random) -> str | None:
        return scene.begin("kubelet", _stop(dice.uniform(2, 6)))

    async def _stop(seconds: float) -> None:
        kubelet.stopped = True
        await asyncio.sleep(seconds)
        kubelet.stopped = False

    async def take_store_away(scene: Scene, dice: random.Random) -> str | None:
        return scene.begin("store", _take_away(dice.uniform(2, 6)))

    async def _take_away(seconds: float) -> None:
        kubelet.store.away = True
        await asyncio.sleep(seconds)
        kubelet.store.away = False

    return [
        Fault("restart-api-server", 1.5, restart_api_server),
        Fault("stop-kubelet", 3, stop_kubelet),
        Fault("take-store-away", 3, take_store_away),
    ]
