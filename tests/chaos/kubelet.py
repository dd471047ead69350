"""Plays the node: schedules pods, does what their containers would do, and writes their statuses as a kubelet.

The Job, Deployment and garbage collecting controllers are the real ones.
"""

import asyncio
import json
import random
from typing import Final

from chaos.api import AWAY, Api, Json, Refused, path_of
from chaos.progressserver import ProgressServer
from chaos.serving import run_server
from chaos.stages import StageRun, Store, run_stage
from chaos.watching import Record, follow
from support.podstatus import PREEMPTED, condition, now, pod_ended, pod_running
from tuneyard_api import names

NODE: Final = "node-1"
STRATEGIC: Final = "application/strategic-merge-patch+json"


class Kubelet:
    """Of one node, for all pods of a namespace."""

    def __init__(self, api: Api, namespace: str, store: Store, dice: random.Random) -> None:
        self.stopped = False  # then pods run on, but nothing is written to the API server
        self.store = store
        self._api = api
        self._namespace = namespace
        self._dice = dice
        self._running: dict[str, asyncio.Task[None]] = {}
        self._deleting: set[str] = set()
        self._progress = ProgressServer()

    async def run(self) -> None:
        """Until it is cancelled."""
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}}
        await self._call("POST", "/api/v1/nodes", node)
        await self._progress.start()
        try:
            await follow(self._api, "Pod", self._namespace, "", self._on_change)
        finally:
            for task in self._running.values():
                task.cancel()
            await asyncio.gather(*self._running.values(), return_exceptions=True)
            await self._progress.stop()

    def _on_change(self, record: Record) -> None:
        pod = record.object
        uid = pod["metadata"]["uid"]
        if record.type == "DELETED":
            if running := self._running.pop(uid, None):
                running.cancel()
        elif "deletionTimestamp" in pod["metadata"]:
            if uid not in self._deleting:
                self._deleting.add(uid)
                self._running[uid] = asyncio.create_task(self._end(pod, self._running.pop(uid, None)))
        elif uid not in self._running and not _has_ended(pod):
            self._running[uid] = asyncio.create_task(self._run_pod(pod))

    async def _run_pod(self, pod: Json) -> None:
        await asyncio.sleep(0.1 + 0.2 * self._dice.random())
        await self._bind(pod)
        if names.LABEL_STAGE in pod["metadata"].get("labels", {}):
            await self._run_stage(pod)
        else:
            await run_server(pod, self.write_status, self._dice)

    async def _run_stage(self, pod: Json) -> None:
        (container,) = pod["spec"]["containers"]
        job = await self._job_file(pod)
        digests = next((item["value"] for item in container["env"] if item["name"] == names.ENV_DIGESTS), "{}")
        async with self._progress.answering() as (address, report):
            await self.write_status(pod, pod_running(pod, now(), address))
            stage, pace = container["command"][2], 0.5 + self._dice.random()
            end = await run_stage(StageRun(self.store, job, stage, json.loads(digests), pace, report))
        await self.write_status(pod, pod_ended(pod, end, now()))

    async def _job_file(self, pod: Json) -> Json:
        """From the ConfigMap; a pod waits while its volume does not exist."""
        (name,) = [item["configMap"]["name"] for item in pod["spec"]["volumes"] if "configMap" in item]
        while True:
            try:
                if found := await self._api.get("ConfigMap", self._namespace, name):
                    job: Json = json.loads(found["data"]["job.json"])
                    return job
            except (*AWAY, Refused):
                pass
            await asyncio.sleep(0.2)

    async def _bind(self, pod: Json) -> None:
        name = pod["metadata"]["name"]
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": name, "namespace": self._namespace},
            "target": {"apiVersion": "v1", "kind": "Node", "name": NODE},
        }
        await self._call("POST", path_of("Pod", self._namespace, name, "binding"), binding)

    async def _end(self, pod: Json, running: asyncio.Task[None] | None) -> None:
        """SIGTERM, the termination message, and the pod is gone."""
        await asyncio.sleep(0.1 + 0.2 * self._dice.random())
        if running:
            running.cancel()
            await asyncio.wait({running})
        name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
        left = await self._call("GET", path_of("Pod", self._namespace, name))
        if left and left["metadata"]["uid"] == uid and not _has_ended(left):
            await self.write_status(pod, _preempted(left))
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0, "preconditions": {"uid": uid}}
        await self._call("DELETE", path_of("Pod", self._namespace, name), body)

    async def write_status(self, pod: Json, status: Json) -> None:
        """Writes the pod's status; with the uid it cannot be that of another pod of the same name."""
        metadata = pod["metadata"]
        change = {"metadata": {"uid": metadata["uid"]}, "status": status}
        await self._call("PATCH", path_of("Pod", self._namespace, metadata["name"], "status"), change, STRATEGIC)

    async def _call(
        self, method: str, path: str, body: Json | None = None, content_type: str = "application/json"
    ) -> Json | None:
        """Retries as kubelets do, unless the pod is gone or has ended before.

        A call that has begun is finished even when the pod is told to end: its status would be wrong later.
        """
        calling = asyncio.create_task(self._retry(method, path, body, content_type))
        try:
            return await asyncio.shield(calling)
        except asyncio.CancelledError:
            await calling
            raise

    async def _retry(self, method: str, path: str, body: Json | None, content_type: str) -> Json | None:
        while True:
            try:
                if not self.stopped:
                    return await self._api.call(method, path, body=body, content_type=content_type)
            except AWAY:
                pass
            except Refused as refused:
                if refused.status in (404, 409, 422):
                    return None
            await asyncio.sleep(0.2)


def _preempted(pod: Json) -> Json:
    """A pod that is told to end: its container exits as it does on SIGTERM, if it has run."""
    if pod.get("status", {}).get("containerStatuses"):
        return pod_ended(pod, PREEMPTED, now())
    return {"phase": "Failed", "conditions": [condition("Ready", False, now())]}


def _has_ended(pod: Json) -> bool:
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")
