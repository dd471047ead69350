"""The operator's process."""

import argparse
import asyncio
import logging
import sys

from tuneyard_operator import finetunejob, handlers, health, modelserver
from tuneyard_operator.kube import Kube
from tuneyard_operator.reconcile import Key, Reconciler
from tuneyard_operator.settings import Settings, from_environment
from tuneyard_operator.workqueue import WorkQueue

log = logging.getLogger(__name__)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="tuneyard-operator",
        description="Watches FineTuneJobs and ModelServers. Settings: TUNEYARD_TRAINER_IMAGE, TUNEYARD_SERVER_IMAGE, "
        "TUNEYARD_IMAGE_PULL_POLICY, TUNEYARD_IMAGE_PULL_SECRETS, TUNEYARD_NAMESPACES (empty: all), "
        "TUNEYARD_LOG_LEVEL, TUNEYARD_HEALTH_PORT. Outside a cluster it uses your kubeconfig.",
    )
    parser.parse_args()
    settings = from_environment()
    logging.basicConfig(
        level=settings.log_level, stream=sys.stdout, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    asyncio.run(run(settings))
    return 0


async def run(settings: Settings) -> None:
    """Until a signal, or until one of its parts fails; then the rest ends too."""
    kube = await Kube.connect()
    reconciler = Reconciler(kube, settings, [finetunejob.CONTROLLER, modelserver.CONTROLLER])
    queue: WorkQueue[Key] = WorkQueue(reconciler, settings.workers)
    ready = asyncio.Event()
    watching = asyncio.create_task(handlers.watch(settings, queue.wake, ready), name="watches")
    working = asyncio.create_task(queue.run(), name="workers")
    server = await health.serve(
        settings.health_port, lambda: health.verdict(not watching.done(), queue.oldest()), ready.is_set
    )
    try:
        ended, _ = await asyncio.wait({watching, working}, return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            task.result()
    finally:
        watching.cancel()
        working.cancel()
        await asyncio.gather(watching, working, return_exceptions=True)
        await server.cleanup()
        await kube.close()


if __name__ == "__main__":
    sys.exit(main())
