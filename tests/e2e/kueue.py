"""Kueue, installed in the cluster while a test of queues needs it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

from demo.kubectl import Json, kubectl, wait_until
from support.kueuemanifests import DEPLOYMENT, SYSTEM, cluster_queue, configuration, manifests


@contextmanager
def kueue_for(namespace: str, image: str, room: Json) -> Iterator[None]:
    """Installs Kueue for the Jobs of `namespace`, with quota for `room` (resource -> quantity).

    The namespace is deleted while Kueue still runs, because Kueue has to remove its finalizers from the objects in it.
    """
    with _applied(manifests(["kubectl"], namespace, image, configuration(namespace))):
        kubectl("rollout", "status", f"deployment/{DEPLOYMENT}", "-n", SYSTEM, "--timeout=120s", timeout=130)
        queue = cluster_queue(namespace, room)
        # A Service forwards to a pod only some time after the pod is ready.
        wait_until(lambda: bool(_apply(queue, "--dry-run=server")), "Kueue's webhooks answer", 60)
        with _applied(queue):
            yield
            kubectl("delete", "namespace", namespace, "--ignore-not-found", timeout=180)


@contextmanager
def _applied(objects: list[Json]) -> Iterator[None]:
    """Applies the objects for the duration of the block and deletes them after it."""
    try:
        _apply(objects)
        yield
    finally:
        kubectl("delete", "-f", "-", "--ignore-not-found", stdin=_listed(objects[::-1]), timeout=180)


def _apply(objects: list[Json], *options: str) -> str:
    """Applies on the server's side, because the CRDs are too large for the last-applied annotation."""
    return kubectl("apply", "--server-side", "--force-conflicts", *options, "-f", "-", stdin=_listed(objects))


def _listed(objects: list[Json]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
