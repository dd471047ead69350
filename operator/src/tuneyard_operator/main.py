"""The operator's process."""

import argparse
import asyncio
import logging
import os
import signal
import sys
from typing import Final

from tuneyard_operator import finetunejob, handlers, health, modelserver
from tuneyard_operator.kube import Kube
from tuneyard_operator.leader import Election
from tuneyard_operator.reconcile import Key, Reconciler
from tuneyard_operator.settings import Settings, from_environment
from tuneyard_operator.workqueue import WorkQueue

log = logging.getLogger(__name__)

LOST: Final = 3  # the exit status of a leader that no longer is


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="tuneyard-operator",
        description="Watches FineTuneJobs and ModelServers. Settings: TUNEYARD_TRAINER_IMAGE, TUNEYARD_SERVER_IMAGE, "
        "TUNEYARD_IMAGE_PULL_POLICY, TUNEYARD_IMAGE_PULL_SECRETS, TUNEYARD_NAMESPACES (empty: all), "
        "TUNEYARD_LOG_LEVEL, TUNEYARD_HEALTH_PORT, TUNEYARD_POD_NAME, TUNEYARD_POD_NAMESPACE and TUNEYARD_LEASE (of "
        "several operators with the same Lease, one works). Outside a cluster it uses your kubeconfig.",
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
    election = Election(kube, settings.identity, settings.lease_namespace, settings.lease_name)
    ready = asyncio.Event()
    watching = asyncio.create_task(handlers.watch(settings, queue.wake, ready), name="watches")
    working = asyncio.create_task(lead(election, queue), name="workers")
    server = await health.serve(
        settings.health_port,
        lambda: health.verdict(not watching.done(), queue.oldest()),
        ready.is_set,
        lambda: election.leads,
    )
    ending = asyncio.create_task(told_to_end(ready), name="signals")
    try:
        ended, _ = await asyncio.wait({watching, working, ending}, return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            task.result()
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        await election.release()
        watching.cancel()
        ending.cancel()
        await asyncio.gather(watching, ending, return_exceptions=True)
        await server.cleanup()
        await kube.close()


async def told_to_end(ready: asyncio.Event) -> None:
    """Takes the signals from kopf once it is up: it would wait five seconds for our tasks before we could hand over."""
    await ready.wait()
    told = asyncio.Event()
    for each in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(each, told.set)
    await told.wait()


async def lead(election: Election, queue: WorkQueue[Key]) -> None:
    """Works while this process leads. Until then the watches gather keys, so it knows what to look at first."""
    await election.acquire()
    async with asyncio.TaskGroup() as group:
        group.create_task(queue.run())
        await election.renew()
        # Not by an exception: on its way up, tasks that are cancelled could still write.
        os._exit(LOST)


if __name__ == "__main__":
    sys.exit(main())
