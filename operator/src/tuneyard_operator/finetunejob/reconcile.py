"""One look at a FineTuneJob: observe, plan, act."""

import asyncio
from collections.abc import Awaitable, Callable

from tuneyard_api import names
from tuneyard_operator import progress
from tuneyard_operator.act import Actor
from tuneyard_operator.errors import ApiError, Verdict, classify
from tuneyard_operator.finetunejob.observe import World, running_pod_ip
from tuneyard_operator.finetunejob.plan import plan, refused
from tuneyard_operator.objects import Json, is_going
from tuneyard_operator.settings import Settings
from tuneyard_operator.workqueue import Key

Ask = Callable[[str], Awaitable[Json | None]]


class FineTuneJobs:
    def __init__(self, actor: Actor, settings: Settings, ask: Ask = progress.ask) -> None:
        self.actor = actor
        self.settings = settings
        self.ask = ask

    async def reconcile(self, key: Key) -> float | None:
        world = await self.observe(key)
        if world is None or is_going(world.job):
            return None
        now = self.actor.clock()
        step = plan(world, self.settings, now)
        try:
            await self.actor.carry_out(world.job, step)
        except ApiError as error:
            if classify(error) is not Verdict.GIVE_UP:
                raise
            await self.actor.carry_out(world.job, refused(world, str(error), now))
            return None
        return step.again

    async def observe(self, key: Key) -> World | None:
        kube = self.actor.kube
        labels = {names.LABEL_FINETUNEJOB: key.name}
        job, jobs, pods = await asyncio.gather(
            kube.get(key.kind, key.namespace, key.name),
            kube.list("Job", key.namespace, labels),
            kube.list("Pod", key.namespace, labels),
        )
        if job is None:
            return None
        world = World(job | {"kind": key.kind}, jobs, pods, since_write=self.actor.since_write(job))
        pod_ip = running_pod_ip(world)
        return world._replace(progress=await self.ask(pod_ip)) if pod_ip else world
