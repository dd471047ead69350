"""The operator's process."""

import argparse
import asyncio
import os
from typing import Final

from prometheus_client import REGISTRY

from tuneyard_api import names
from tuneyard_operator import finetunejob, modelserver, process
from tuneyard_operator.admission import lookup
from tuneyard_operator.admission.review import Admission
from tuneyard_operator.machinery import health, logs, metrics
from tuneyard_operator.machinery.cache import Cache
from tuneyard_operator.machinery.declared import cached_kinds, enqueue_requests, resources, sources
from tuneyard_operator.machinery.http import HttpClient
from tuneyard_operator.machinery.identity import Identity
from tuneyard_operator.machinery.informers import Informers
from tuneyard_operator.machinery.kube import Kube
from tuneyard_operator.machinery.leader import Election
from tuneyard_operator.machinery.objects import Json, Key
from tuneyard_operator.machinery.reconcile import Reconciler
from tuneyard_operator.machinery.workqueue import WorkQueue
from tuneyard_operator.settings import Settings, described, from_environment

# One line for each kind.
CONTROLLERS: Final = (finetunejob.CONTROLLER, modelserver.CONTROLLER)

IDENTITY: Final = Identity(field_manager=names.FIELD_MANAGER, component="tuneyard")
METRICS_PREFIX: Final = "tuneyard_"
LEADERSHIP_LOST: Final = 3  # the exit status of a process that has lost the Lease


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="tuneyard-operator",
        description="Reconciles FineTuneJobs and ModelServers. Outside a cluster it uses your kubeconfig.",
        epilog=f"Settings are environment variables:\n{described()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args()
    settings = from_environment()
    logs.set_up(settings.log_level, settings.log_format)
    admission = Admission()
    webhook = process.Webhook(settings.webhook_port, settings.webhook_certificates, admission.review)
    asyncio.run(process.run(lambda: run(settings, admission), webhook if settings.webhook_port else None))
    return 0


async def run(settings: Settings, admission: Admission) -> None:
    """Runs until it is cancelled, or until one of its parts fails; then the other parts end too."""
    kube, http = Kube(process.login, resources(CONTROLLERS) | lookup.RESOURCES, IDENTITY), HttpClient()
    kinds = cached_kinds(CONTROLLERS)
    cache = Cache(kinds, lambda obj: enqueue(obj))
    reconciler = Reconciler(kube, cache, CONTROLLERS, settings, http)
    queue: WorkQueue[Key] = WorkQueue(reconciler, settings.workers, lane=lambda key: key.kind)
    informers = Informers(kube, cache, sources(CONTROLLERS), settings.namespaces)
    election = Election(kube, settings.identity, settings.pod_namespace, settings.lease)

    def enqueue(obj: Json) -> None:
        for key in enqueue_requests(obj, kinds, cache):
            queue.enqueue(key)

    exporter = metrics.Exporter(METRICS_PREFIX, CONTROLLERS, queue.depths, cache.states)
    REGISTRY.register(exporter)
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
            admission.lookup = lookup.ClusterLookup(kube, cache.get, settings.webhook_lookups)
            await lead(election, queue)
    finally:
        await election.release()
        REGISTRY.unregister(exporter)
        await server.cleanup()
        await kube.close()
        await http.close()


async def lead(election: Election, queue: WorkQueue[Key]) -> None:
    """Reconciles while this process leads. Until then the informers enqueue keys, which are reconciled first."""
    await election.acquire()
    async with asyncio.TaskGroup() as parts:
        parts.create_task(queue.run(), name="workers")
        await election.renew()
        # An exception would cancel the workers one by one, and those that are left could still write.
        os._exit(LEADERSHIP_LOST)
