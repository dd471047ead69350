"""The operator's process."""

import argparse
import asyncio
import gc
import os
import sys
from typing import Final

from prometheus_client import REGISTRY

from tuneyard_operator import finetunejob, modelserver, process
from tuneyard_operator.machinery import health, logs, metrics
from tuneyard_operator.machinery.cache import Cache
from tuneyard_operator.machinery.informers import Informers
from tuneyard_operator.machinery.kube import Kube
from tuneyard_operator.machinery.leader import Election
from tuneyard_operator.machinery.objects import Json, Key
from tuneyard_operator.machinery.reconcile import Reconciler
from tuneyard_operator.machinery.watches import woken_by
from tuneyard_operator.machinery.workqueue import WorkQueue
from tuneyard_operator.settings import Settings, from_environment

# Objects are JSON, in which nothing points back: they go when they are no longer used. To look for cycles among those
# of a few pages, again and again while they come, took more than half of the time of the first lists.
CONTAINERS: Final = 200_000
LOST: Final = 3  # the exit status of a leader that no longer is


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="tuneyard-operator",
        description="Watches FineTuneJobs and ModelServers. Settings: TUNEYARD_TRAINER_IMAGE, TUNEYARD_SERVER_IMAGE, "
        "TUNEYARD_IMAGE_PULL_POLICY, TUNEYARD_IMAGE_PULL_SECRETS, TUNEYARD_NAMESPACES (empty: all), "
        "TUNEYARD_LOG_LEVEL, TUNEYARD_LOG_FORMAT (text or json), TUNEYARD_HEALTH_PORT, TUNEYARD_POD_NAME, "
        "TUNEYARD_POD_NAMESPACE and TUNEYARD_LEASE (of several operators with the same Lease, one works). Outside a "
        "cluster it uses your kubeconfig.",
    )
    parser.parse_args()
    settings = from_environment()
    logs.set_up(settings.log_level, settings.log_format)
    gc.freeze()
    gc.set_threshold(CONTAINERS)
    asyncio.run(process.run(lambda: run(settings)))
    return 0


async def run(settings: Settings) -> None:
    """Until it is cancelled, or until one of its parts fails; then the rest ends too."""
    kube = Kube(process.login)
    cache = Cache(lambda thing: wake(thing))
    reconciler = Reconciler(kube, cache, settings, [finetunejob.CONTROLLER, modelserver.CONTROLLER])
    queue: WorkQueue[Key] = WorkQueue(reconciler, settings.workers, lane=lambda key: key.kind)
    informers = Informers(kube, cache, settings.namespaces)
    election = Election(kube, settings.identity, settings.lease_namespace, settings.lease_name)

    def wake(thing: Json) -> None:
        for key in woken_by(thing, cache):
            queue.wake(key)

    states = metrics.StateCollector(queue.depths, cache.states)
    REGISTRY.register(states)
    server = await health.serve(
        settings.health_port,
        lambda: health.verdict(informers.stuck(), queue.oldest()),
        informers.are_synced,
        lambda: election.leads,
    )
    try:
        async with asyncio.TaskGroup() as parts:
            parts.create_task(informers.run(), name="informers")
            await informers.synced()
            await lead(election, queue)
    finally:
        await election.release()
        REGISTRY.unregister(states)
        await server.cleanup()
        await kube.close()


async def lead(election: Election, queue: WorkQueue[Key]) -> None:
    """Works while this process leads. Until then the informers gather keys, so it knows what to look at first."""
    await election.acquire()
    async with asyncio.TaskGroup() as parts:
        parts.create_task(queue.run(), name="workers")
        await election.renew()
        # Not by an exception: on its way up, tasks that are cancelled could still write.
        os._exit(LOST)


if __name__ == "__main__":
    sys.exit(main())
