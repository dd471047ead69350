"""Two hundred faults over the kind cluster: real training, real vLLM, two operators outside of it.

`make chaos` starts it; it is too long for CI. The seed is TUNEYARD_CHAOS_SEED.
"""

import asyncio
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from chaos.arena import BLOWS, arena, endure
from chaos.clusterwork import broken_data, expected, work
from chaos.faults import FAULTS
from chaos.nodefaults import node_faults
from demo.kubectl import Json, get, kubectl
from demo.objectstore import ObjectStore
from e2e.conftest import (  # noqa: F401 - fixtures
    STORE_NAMESPACE,
    NamespaceFactory,
    demo_model,
    images,
    new_namespace,
    operator,
    room,
    store,
)

PAUSE_SECONDS: Final = 4.0
SETTLE_SECONDS: Final = 1200.0
SYSTEM: Final = "tuneyard-system"
# A pod that serves takes a minute of both cores to come back.
RARE: Final = {"delete-server-pod": 0.5}


async def test_two_hundred_faults(store: ObjectStore, new_namespace: NamespaceFactory, tmp_path: Path) -> None:  # noqa: F811
    namespace = await asyncio.to_thread(new_namespace, "e2e-chaos")
    await asyncio.to_thread(broken_data, store)
    token = kubectl("create", "token", "tuneyard", "-n", SYSTEM, "--duration=4h").strip()
    faults = [each._replace(weight=RARE.get(each.name, each.weight)) for each in FAULTS]
    faults += node_faults(STORE_NAMESPACE)
    with operators_outside() as given, pods_reached_from_here():
        environment = given | {"TUNEYARD_NAMESPACES": namespace, "TUNEYARD_POD_NAMESPACE": SYSTEM}
        config = Path(os.environ["KUBECONFIG"])
        async with arena(config, token, namespace, environment, tmp_path) as held:
            people = work(held.scene.api, namespace)
            blows = await endure(held, faults, PAUSE_SECONDS, people, expected(), SETTLE_SECONDS)
    assert len(blows) == BLOWS


@contextmanager
def operators_outside() -> Iterator[dict[str, str]]:
    """The cluster's own operator rests meanwhile; yields the environment that the chart has given it."""
    deployment = get("deployment", "tuneyard", SYSTEM)
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    scale(0)
    try:
        yield {
            each["name"]: each["value"]
            for each in container["env"]
            if each["name"].startswith("TUNEYARD_") and "value" in each
        }
    finally:
        scale(deployment["spec"]["replicas"])


def scale(replicas: int) -> None:
    kubectl("scale", "deployment/tuneyard", "-n", SYSTEM, f"--replicas={replicas}")
    kubectl("rollout", "status", "deployment/tuneyard", "-n", SYSTEM, "--timeout=120s", timeout=130)


@contextmanager
def pods_reached_from_here() -> Iterator[None]:
    """Routes to the pods through the nodes, so that the operators can ask stages for their progress."""
    routes = [route(node) for node in json.loads(kubectl("get", "nodes", "-o", "json"))["items"]]
    for each in routes:
        subprocess.run(["ip", "route", "replace", *each], check=True)
    try:
        yield
    finally:
        for each in routes:
            subprocess.run(["ip", "route", "del", *each], check=False)


def route(node: Json) -> list[str]:
    (address,) = [each["address"] for each in node["status"]["addresses"] if each["type"] == "InternalIP"]
    return [node["spec"]["podCIDR"], "via", address]
