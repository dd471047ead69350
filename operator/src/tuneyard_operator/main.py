"""The operator process: watches fill the queue, workers empty it."""

import asyncio
import logging
import signal

from tuneyard_operator import handlers, kube
from tuneyard_operator.act import Actor
from tuneyard_operator.finetunejob.reconcile import FineTuneJobs
from tuneyard_operator.settings import Settings, from_environment
from tuneyard_operator.workqueue import Key, WorkQueue

log = logging.getLogger(__name__)


def main() -> None:
    settings = from_environment()
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    asyncio.run(run(settings))


async def run(settings: Settings) -> None:
    """Until SIGTERM or SIGINT. Work that is cut off is done by the next process."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with kube.connect() as api:
        queue = WorkQueue(reconciler(Actor(api), settings))
        workers = asyncio.create_task(queue.run(settings.workers))
        watching = asyncio.create_task(handlers.watch(queue, settings, stop))
        log.info("watching %s", ", ".join(settings.namespaces) or "all namespaces")
        done, _ = await asyncio.wait([workers, watching], return_when=asyncio.FIRST_COMPLETED)
        stop.set()
        workers.cancel()
        await asyncio.gather(workers, watching, return_exceptions=True)
        for task in done:
            if not task.cancelled() and (error := task.exception()):
                raise error


def reconciler(actor: Actor, settings: Settings):  # type: ignore[no-untyped-def]
    kinds = {handlers.FTJ: FineTuneJobs(actor, settings)}

    async def reconcile(key: Key) -> float | None:
        return await kinds[key.kind].reconcile(key)

    return reconcile


if __name__ == "__main__":
    main()
