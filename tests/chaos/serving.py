"""What the containers of a ModelServer's pod do, without a model: fetch and verify, start, be ready."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final

from chaos.api import Json
from chaos.podstatus import now, ready, state, terminated
from chaos.stages import End
from support.podstatus import termination
from tuneyard_api import names, reasons

CORRUPT: Final = "s3://artifacts/corrupt"
Say = Callable[[Json, Json], Awaitable[None]]

VERIFIED: Final = End(names.EXIT_DONE, termination(reasons.COMPLETED))
DAMAGED: Final = End(
    names.EXIT_BAD_INPUT, termination(reasons.ARTIFACT_CORRUPT, "model.safetensors differs from its digest")
)


async def play_server(pod: Json, say: Say, dice: random.Random) -> None:
    """Until it is ready, or its artifact has been found damaged as often as anybody wants to know."""
    (fetch,) = pod["spec"]["initContainers"]
    waiting = [state(each, {"waiting": {"reason": "PodInitializing"}}) for each in pod["spec"]["containers"]]
    starting = {"phase": "Pending", "startTime": now(), "podIP": address(dice), "conditions": [ready(False)]}

    async def fetched(what: Json) -> None:
        await say(pod, starting | {"initContainerStatuses": [what], "containerStatuses": waiting})

    await fetched(state(fetch, {"running": {"startedAt": now()}}))
    await asyncio.sleep(0.3 + 0.3 * dice.random())
    if CORRUPT in fetch["command"]:
        await fetched(state(fetch, terminated(DAMAGED)))
        for restarts in (1, 2):
            await asyncio.sleep(0.5)
            back_off = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}
            await fetched(state(fetch, back_off, last=terminated(DAMAGED), restarts=restarts))
        return
    await fetched(state(fetch, terminated(VERIFIED), ready=True))
    await asyncio.sleep(0.5 + dice.random())
    await say(pod, serving(pod))


def serving(pod: Json) -> Json:
    started = {"running": {"startedAt": now()}}
    return {
        "phase": "Running",
        "conditions": [ready(True)],
        "containerStatuses": [state(each, started, ready=True) for each in pod["spec"]["containers"]],
    }


def address(dice: random.Random) -> str:
    return f"10.244.{dice.randrange(256)}.{dice.randrange(1, 255)}"
