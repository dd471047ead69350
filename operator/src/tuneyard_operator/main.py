"""The operator's process."""

import argparse
import asyncio
import sys

from prometheus_client import REGISTRY

from tuneyard_operator import finetunejob, handlers, health, logs, metrics, modelserver
from tuneyard_operator.cache import Cache
from tuneyard_operator.informers import Informers
from tuneyard_operator.kube import Kube
from tuneyard_operator.objects import Json, Key
from tuneyard_operator.reconcile import Reconciler
from tuneyard_operator.settings import Settings, from_environment
from tuneyard_operator.wakes import woken_by
from tuneyard_operator.workqueue import WorkQueue


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="tuneyard-operator",
        description="Watches FineTuneJobs and ModelServers. Settings: TUNEYARD_TRAINER_IMAGE, TUNEYARD_SERVER_IMAGE, "
        "TUNEYARD_IMAGE_PULL_POLICY, TUNEYARD_IMAGE_PULL_SECRETS, TUNEYARD_NAMESPACES (empty: all), "
        "TUNEYARD_LOG_LEVEL, TUNEYARD_LOG_FORMAT (text or json), TUNEYARD_HEALTH_PORT. Outside a cluster it uses your "
        "kubeconfig.",
    )
    parser.parse_args()
    settings = from_environment()
    logs.set_up(settings.log_level, settings.log_format)
    asyncio.run(handlers.run(lambda: run(settings)))
    return 0


async def run(settings: Settings) -> None:
    """Until it is cancelled, or until one of its parts fails; then the rest ends too."""
    kube = await Kube.connect()
    cache = Cache(lambda thing: wake(thing))
    reconciler = Reconciler(kube, cache, settings, [finetunejob.CONTROLLER, modelserver.CONTROLLER])
    queue: WorkQueue[Key] = WorkQueue(reconciler, settings.workers, lane=lambda key: key.kind)
    informers = Informers(kube, cache, settings.namespaces)

    def wake(thing: Json) -> None:
        for key in woken_by(thing, cache):
            queue.wake(key)

    states = metrics.StateCollector(queue.depths, cache.states)
    REGISTRY.register(states)
    server = await health.serve(
        settings.health_port, lambda: health.verdict(informers.stuck(), queue.oldest()), informers.are_synced
    )
    try:
        async with asyncio.TaskGroup() as parts:
            parts.create_task(informers.run(), name="informers")
            await informers.synced()
            # Here, and not before, a process of several would wait until it leads.
            parts.create_task(queue.run(), name="workers")
    finally:
        REGISTRY.unregister(states)
        await server.cleanup()
        await kube.close()


if __name__ == "__main__":
    sys.exit(main())
