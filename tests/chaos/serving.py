"""What the containers of a ModelServer's pod do, without a model: fetch and verify, start, be ready."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final

from chaos.api import Json
from support import podstatus
from support.podstatus import End, container, now, terminated, termination
from tuneyard_api import names, reasons

CORRUPT: Final = "s3://artifacts/corrupt"
WriteStatus = Callable[[Json, Json], Awaitable[None]]

VERIFIED: Final = End(names.EXIT_DONE, termination(reasons.COMPLETED))
DAMAGED: Final = End(
    names.EXIT_BAD_INPUT, termination(reasons.ARTIFACT_CORRUPT, "model.safetensors differs from its digest")
)


async def run_server(pod: Json, write_status: WriteStatus, dice: random.Random) -> None:
    """Until it is ready, or its artifact was found damaged as often as it takes for the revision to fail."""
    (fetch,) = pod["spec"]["initContainers"]
    initializing = podstatus.waiting("PodInitializing")
    starting = {
        "phase": "Pending",
        "startTime": now(),
        "podIP": f"10.244.{dice.randrange(256)}.{dice.randrange(1, 255)}",
        "conditions": [podstatus.condition("Ready", False, now())],
        "containerStatuses": [container(spec, initializing) for spec in pod["spec"]["containers"]],
    }

    async def write_fetch(status: Json) -> None:
        await write_status(pod, starting | {"initContainerStatuses": [status]})

    await write_fetch(container(fetch, podstatus.running(now())))
    await asyncio.sleep(0.3 + 0.3 * dice.random())
    if CORRUPT in fetch["command"]:
        await write_fetch(container(fetch, terminated(DAMAGED, now())))
        for restarts in (1, 2):
            await asyncio.sleep(0.5)
            back_off = podstatus.waiting("CrashLoopBackOff", "back-off")
            await write_fetch(container(fetch, back_off, last=terminated(DAMAGED, now()), restarts=restarts))
        return
    await write_fetch(container(fetch, terminated(VERIFIED, now()), ready=True))
    await asyncio.sleep(0.5 + dice.random())
    await write_status(pod, podstatus.pod_running(pod, now()))
