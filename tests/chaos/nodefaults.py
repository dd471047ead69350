"""Faults of the kind cluster's one node and of the store in it."""

import asyncio
import json
import random
import subprocess
from typing import Final

from chaos.faults import Fault, Scene
from demo.kubectl import KubectlError, kubectl

NODE: Final = "tuneyard-control-plane"
NOT_READY_SECONDS: Final = 60.0  # the node is NotReady after 40-50 s without its kubelet
STORE_AWAY_SECONDS: Final = 120.0
MANIFEST: Final = "/etc/kubernetes/manifests/kube-apiserver.yaml"
AWAY_SECONDS: Final = 10.0


def node_faults(store_namespace: str) -> list[Fault]:
    async def take_store_away(scene: Scene, _: random.Random) -> str | None:
        return scene.begin("store", _without_store(store_namespace))

    return [
        Fault("restart-api-server", 2, restart_api_server),
        Fault("kill-api-server", 1, kill_api_server),
        Fault("stop-kubelet", 1.5, stop_kubelet),
        Fault("take-store-away", 1, take_store_away),
    ]


async def restart_api_server(scene: Scene, _: random.Random) -> str | None:
    """Its static pod goes for a while, and comes back."""
    return scene.begin("kube-apiserver", _without_api_server())


async def kill_api_server(scene: Scene, _: random.Random) -> str | None:
    """Its process dies; the kubelet starts another."""
    return scene.begin("kube-apiserver", on_node("pkill", "-KILL", "kube-apiserver"))


async def stop_kubelet(scene: Scene, _: random.Random) -> str | None:
    return scene.begin("kubelet", _without_kubelet())


async def _without_api_server() -> None:
    await on_node("mv", MANIFEST, "/root/kube-apiserver.yaml")
    try:
        await asyncio.sleep(AWAY_SECONDS)
    finally:
        await on_node("mv", "/root/kube-apiserver.yaml", MANIFEST)


async def _without_kubelet() -> None:
    await on_node("systemctl", "stop", "kubelet")
    try:
        await asyncio.sleep(NOT_READY_SECONDS)
    finally:
        await on_node("systemctl", "start", "kubelet")


async def _without_store(namespace: str) -> None:
    """Its Service selects nothing: the data of the pod is only in the pod."""
    await _select(namespace, "nothing")
    try:
        await asyncio.sleep(STORE_AWAY_SECONDS)
    finally:
        await _select(namespace, "s3")


async def _select(namespace: str, app: str) -> None:
    """Again and again: the API server may be away at the same time."""
    change = json.dumps({"spec": {"selector": {"app": app}}})
    while True:
        try:
            await asyncio.to_thread(kubectl, "patch", "service", "s3", "-n", namespace, "-p", change)
        except (KubectlError, subprocess.TimeoutExpired):
            await asyncio.sleep(1)
        else:
            return


async def on_node(*command: str) -> None:
    await asyncio.to_thread(subprocess.run, ["docker", "exec", NODE, *command], check=True, capture_output=True)
