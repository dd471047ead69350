"""A storm over the operator in front of a real API server and real controllers; only the node is played.

The seed is TUNEYARD_CHAOS_SEED. Everything that was recorded lies in the test's folder, which a failure names.
One at a time on a machine: its pods answer at addresses of 127.77.0.0/16.
"""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from chaos.api import Access, Api
from chaos.arena import BLOWS, SEED, arena, end, endure
from chaos.faults import FAULTS, Fault, Scene
from chaos.kubelet import Kubelet
from chaos.stages import Store
from chaos.workload import expected, work
from support.apiserver import TOKEN, ApiServer, api_server

PAUSE_SECONDS: Final = 0.2
# A minute is enough, but for a Job whose controller expects a pod that came and went while it was cut off: it is made
# again after a long silence (STALLED_SECONDS in the operator's plan), and may have to let 80 s pass before.
SETTLE_SECONDS: Final = 720.0
NAMESPACE: Final = "default"
CONTROLLERS: Final = (
    "job-controller,deployment-controller,replicaset-controller,garbage-collector-controller,endpointslice-controller"
)
ENVIRONMENT: Final = {
    "TUNEYARD_TRAINER_IMAGE": "trainer:1",
    "TUNEYARD_SERVER_IMAGE": "server:1",
    "TUNEYARD_NAMESPACES": NAMESPACE,
    "TUNEYARD_POD_NAMESPACE": NAMESPACE,
}


async def test_two_hundred_faults(tmp_path: Path) -> None:
    with api_server(tmp_path / "cluster", controllers=CONTROLLERS) as server:
        await asyncio.to_thread(server.install_crds)
        async with (
            node(server) as kubelet,
            arena(server.kubeconfig, TOKEN, NAMESPACE, ENVIRONMENT, tmp_path) as held,
        ):
            people = work(held.scene.api, NAMESPACE, random.Random(SEED))
            faults = [*FAULTS, *machine_faults(server, kubelet)]
            blows = await endure(held, faults, PAUSE_SECONDS, people, expected(), SETTLE_SECONDS)
    assert len(blows) == BLOWS


@asynccontextmanager
async def node(server: ApiServer) -> AsyncIterator[Kubelet]:
    api = Api(Access.of(server.kubeconfig))
    kubelet = Kubelet(api, NAMESPACE, Store(), random.Random(SEED))
    running = asyncio.create_task(kubelet.run())
    try:
        yield kubelet
    finally:
        await end([running])
        await api.close()


def machine_faults(server: ApiServer, kubelet: Kubelet) -> list[Fault]:
    """Of what stands around the operator."""

    async def restart_api_server(scene: Scene, _: random.Random) -> str | None:
        return scene.begin("kube-apiserver", asyncio.to_thread(server.restart))

    async def stop_kubelet(scene: Scene, dice: random.Random) -> str | None:
        return scene.begin("kubelet", stopped(dice.uniform(2, 6)))

    async def stopped(seconds: float) -> None:
        kubelet.stopped = True
        await asyncio.sleep(seconds)
        kubelet.stopped = False

    async def take_store_away(scene: Scene, dice: random.Random) -> str | None:
        return scene.begin("store", without_store(dice.uniform(2, 6)))

    async def without_store(seconds: float) -> None:
        kubelet.store.away = True
        await asyncio.sleep(seconds)
        kubelet.store.away = False

    return [
        Fault("restart-api-server", 1.5, restart_api_server),
        Fault("stop-kubelet", 3, stop_kubelet),
        Fault("take-store-away", 3, take_store_away),
    ]
