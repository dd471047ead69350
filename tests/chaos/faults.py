"""The faults: one small function each, by name and weight; and the seeded storm that strikes with them."""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple

from chaos.api import AWAY, Api, Json, Refused, path_of
from chaos.operators import OperatorProcess
from chaos.proxy import REQUEST_FAULTS, FaultProxy, RequestFault
from tuneyard_api import names

MOST_STRIKES: Final = 3  # the Job controller then waits 40 s, and a store that is away adds to it
FIT_SECONDS: Final = 1.0  # how long a fault waits for a moment that it fits
JUMPS: Final = [timedelta(hours=hours) for hours in (-26, -1, 1, 26)]


@dataclass
class Scene:
    """What the faults strike at."""

    api: Api  # direct
    proxy: FaultProxy
    operators: list[OperatorProcess]
    namespace: str
    struck: Counter[str] = field(default_factory=Counter)  # how often, by the FineTuneJob or ModelServer
    under_way: dict[str, asyncio.Task[None]] = field(default_factory=dict)  # by what they keep busy

    def begin(self, what: str, work: Coroutine[Any, Any, Any]) -> str | None:
        """Does it meanwhile; None, and nothing is done, while the same is under way."""
        if what in self.under_way:
            work.close()
            return None
        task = asyncio.create_task(work, name=what)
        task.add_done_callback(lambda _: self.under_way.pop(what))
        self.under_way[what] = task
        return what

    async def calm(self) -> None:
        """Returns when all that was under way has ended."""
        while self.under_way:
            await asyncio.wait(self.under_way.values())


Act = Callable[[Scene, random.Random], Awaitable[str | None]]


class Fault(NamedTuple):
    """`act` says what it struck, or None where there is nothing to strike at this moment."""

    name: str
    weight: float
    act: Act


class Entry(NamedTuple):
    """A line of the storm's log."""

    at: float
    step: int  # of the seed
    fault: str
    target: str


def request_fault(fault: RequestFault) -> Act:
    async def act(scene: Scene, dice: random.Random) -> str | None:
        count = dice.randint(1, 3)
        return f"the next {count} requests" if scene.proxy.arm(fault, count) else None

    return act


async def kill_operator(scene: Scene, dice: random.Random) -> str | None:
    operator = dice.choice(scene.operators)
    return operator.name if operator.kill() else None


async def jump_clock(scene: Scene, dice: random.Random) -> str | None:
    operator, offset = dice.choice(scene.operators), dice.choice(JUMPS)
    what = f"{operator.name}'s clock"
    begun = scene.begin(what, _jump(operator, offset, dice.uniform(3, 8)))
    return begun and f"{what} by {offset.total_seconds() / 3600:+.0f} h"


async def _jump(operator: OperatorProcess, offset: timedelta, seconds: float) -> None:
    operator.jump_clock(offset)
    await asyncio.sleep(seconds)
    operator.jump_clock(timedelta())


async def cut_watches(scene: Scene, _: random.Random) -> str | None:
    count = scene.proxy.cut_streams()
    return f"{count} watches" if count else None


async def silence_watches(scene: Scene, dice: random.Random) -> str | None:
    return scene.begin("watches", scene.proxy.silence_streams(dice.uniform(2, 6)))


async def lose_api_server(scene: Scene, dice: random.Random) -> str | None:
    return scene.begin("API server", scene.proxy.go_away(dice.uniform(1, 5)))


async def delete_stage_pod(scene: Scene, dice: random.Random) -> str | None:
    """One that runs: Kubernetes charges a pod that is deleted before it runs to the Job, whatever its policy says."""
    return await _delete(scene, await _some_pod(scene, dice, names.LABEL_FINETUNEJOB, ("Running",)))


async def delete_server_pod(scene: Scene, dice: random.Random) -> str | None:
    return await _delete(scene, await _some_pod(scene, dice, names.LABEL_MODELSERVER))


async def evict_stage_pod(scene: Scene, dice: random.Random) -> str | None:
    pod = await _some_pod(scene, dice, names.LABEL_FINETUNEJOB)
    if pod is None:
        return None
    metadata = {"name": pod, "namespace": scene.namespace}
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata}
    await scene.api.call("POST", path_of("Pod", scene.namespace, pod, "eviction"), body=eviction)
    return pod


async def _delete(scene: Scene, pod: str | None) -> str | None:
    if pod:
        await scene.api.delete("Pod", scene.namespace, pod)
    return pod


async def _some_pod(
    scene: Scene, dice: random.Random, label: str, phases: Sequence[str] = ("Pending", "Running")
) -> str | None:
    """Of those whose owner was struck least, and not too often: a Job waits longer after each pod that it lost."""
    pods = [
        pod
        for pod in (await scene.api.list("Pod", scene.namespace, label))["items"]
        if pod.get("status", {}).get("phase") in phases and "deletionTimestamp" not in pod["metadata"]
    ]
    if not pods:
        return None
    least = min(scene.struck[pod["metadata"]["labels"][label]] for pod in pods)
    if least >= MOST_STRIKES:
        return None
    fit = sorted(_name(pod) for pod in pods if scene.struck[pod["metadata"]["labels"][label]] == least)
    chosen = dice.choice(fit)
    scene.struck.update(pod["metadata"]["labels"][label] for pod in pods if _name(pod) == chosen)
    return chosen


def _name(pod: Json) -> str:
    return str(pod["metadata"]["name"])


FAULTS: Final = (
    *(Fault(f"request-{fault.name}", 4, request_fault(fault)) for fault in REQUEST_FAULTS),
    Fault("kill-operator", 4, kill_operator),
    Fault("jump-clock", 4, jump_clock),
    Fault("cut-watches", 6, cut_watches),
    Fault("silence-watches", 3, silence_watches),
    Fault("lose-api-server", 2, lose_api_server),
    Fault("delete-stage-pod", 8, delete_stage_pod),
    Fault("evict-stage-pod", 8, evict_stage_pod),
    Fault("delete-server-pod", 4, delete_server_pod),
)


async def storm(scene: Scene, faults: Sequence[Fault], seed: int, count: int, pause: float, log: Path) -> list[Entry]:
    """Strikes `count` times, `pause` seconds apart on average; each blow is a line in `log`."""
    dice = random.Random(seed)
    entries: list[Entry] = []
    await _work_has_begun(scene)
    with log.open("w", buffering=1) as file:
        while len(entries) < count:
            await asyncio.sleep(dice.expovariate(1 / pause))
            (fault,) = dice.choices(faults, [each.weight for each in faults])
            target = await _strike(fault, scene, random.Random(dice.random()))
            if target is not None:
                entries.append(Entry(time.time(), len(entries), fault.name, target))
                file.write(json.dumps(entries[-1]._asdict()) + "\n")
    return entries


async def _work_has_begun(scene: Scene) -> None:
    """An operator has written a status."""
    while True:
        with suppress(*AWAY, Refused):
            jobs = (await scene.api.list("FineTuneJob", scene.namespace))["items"]
            if any("status" in each for each in jobs):
                return
        await asyncio.sleep(0.5)


async def _strike(fault: Fault, scene: Scene, dice: random.Random) -> str | None:
    """None where no fitting moment came."""
    deadline = time.monotonic() + FIT_SECONDS
    while time.monotonic() < deadline:
        try:
            if target := await fault.act(scene, dice):
                return target
        except (*AWAY, Refused):
            pass  # the pod is gone meanwhile, or the API server is away
        await asyncio.sleep(0.3)
    return None
