"""Kueue in the cluster for as long as a test of queues needs it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

from demo.kubectl import Json, kubectl, wait_until
from support.kueuemanifests import DEPLOYMENT, SYSTEM, cluster_queue, configuration, manifests


@contextmanager
def kueue_for(namespace: str, image: str, room: Json) -> Iterator[None]:
    """Kueue for the Jobs of `namespace`, with quota for `room` (resource -> quantity).

    The namespace goes at the end too: while Kueue is there to take its finalizers off what is in it.
    """
    with _applied(manifests(["kubectl"], namespace, image, configuration(namespace))):
        kubectl("rollout", "status", f"deployment/{DEPLOYMENT}", "-n", SYSTEM, "--timeout=120s", timeout=130)
        queue = cluster_queue(namespace, room)
        # A Service leads to a pod a little later than the pod is ready.
        wait_until(lambda: bool(_apply(queue, "--dry-run=server")), "Kueue's webhooks answer", 60)
        with _applied(queue):
            yield
            kubectl("delete", "namespace", namespace, "--ignore-not-found", timeout=180)


@contextmanager
def _applied(things: list[Json]) -> Iterator[None]:
    """They are there in the block, and gone after it."""
    try:
        _apply(things)
        yield
    finally:
        kubectl("delete", "-f", "-", "--ignore-not-found", stdin=_listed(things[::-1]), timeout=180)


def _apply(things: list[Json], *options: str) -> str:
    """On the server: the CRDs do not fit into an annotation."""
    return kubectl("apply", "--server-side", "--force-conflicts", *options, "-f", "-", stdin=_listed(things))


def _listed(things: list[Json]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": things})
