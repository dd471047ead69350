"""Plays the node: schedules pods, runs what their containers would do, and says how they end, as a kubelet says it.

It is the environment of the test: the Job, Deployment and garbage collecting controllers are the real ones.
"""

import asyncio
import json
import random
from typing import Final

from chaos.api import AWAY, Api, Json, Refused, path_of
from chaos.podstatus import cut_short, ended, running
from chaos.progressserver import ProgressServer
from chaos.serving import play_server
from chaos.stages import StageRun, Store, run_stage
from chaos.watching import Record, follow
from tuneyard_api import names

NODE: Final = "node-1"
STRATEGIC: Final = "application/strategic-merge-patch+json"


class Kubelet:
    """Of one node, for all pods of a namespace."""

    def __init__(self, api: Api, namespace: str, store: Store, dice: random.Random) -> None:
        self.stopped = False  # then pods go on, but nothing is heard of them
        self.store = store
        self._api = api
        self._namespace = namespace
        self._dice = dice
        self._plays: dict[str, asyncio.Task[None]] = {}
        self._going: set[str] = set()
        self._progress = ProgressServer()

    async def run(self) -> None:
        """Until it is cancelled."""
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}}
        await self._insist("POST", "/api/v1/nodes", node)
        await self._progress.start()
        try:
            await follow(self._api, "Pod", self._namespace, "", self._seen)
        finally:
            for task in self._plays.values():
                task.cancel()
            await asyncio.gather(*self._plays.values(), return_exceptions=True)
            await self._progress.stop()

    def _seen(self, record: Record) -> None:
        pod = record.object
        uid = pod["metadata"]["uid"]
        if record.type == "DELETED":
            if play := self._plays.pop(uid, None):
                play.cancel()
        elif "deletionTimestamp" in pod["metadata"]:
            if uid not in self._going:
                self._going.add(uid)
                self._plays[uid] = asyncio.create_task(self._end(pod, self._plays.pop(uid, None)))
        elif uid not in self._plays and not _is_over(pod):
            self._plays[uid] = asyncio.create_task(self._play(pod))

    async def _play(self, pod: Json) -> None:
        await asyncio.sleep(0.1 + 0.2 * self._dice.random())
        await self._bind(pod)
        if names.LABEL_STAGE in pod["metadata"].get("labels", {}):
            await self._play_stage(pod)
        else:
            await play_server(pod, self.say, self._dice)

    async def _play_stage(self, pod: Json) -> None:
        (container,) = pod["spec"]["containers"]
        job = await self._job_file(pod)
        digests = next((each["value"] for each in container["env"] if each["name"] == names.ENV_DIGESTS), "{}")
        async with self._progress.answering() as (address, tell):
            await self.say(pod, running(container, address))
            stage = container["command"][2]
            pace = 0.5 + self._dice.random()
            end = await run_stage(StageRun(self.store, job, stage, json.loads(digests), pace, tell))
        await self.say(pod, ended(container, end))

    async def _job_file(self, pod: Json) -> Json:
        """Of the ConfigMap; a pod whose volume is not there waits for it."""
        (name,) = [each["configMap"]["name"] for each in pod["spec"]["volumes"] if "configMap" in each]
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
        await self._insist("POST", path_of("Pod", self._namespace, name, "binding"), binding)

    async def _end(self, pod: Json, play: asyncio.Task[None] | None) -> None:
        """SIGTERM, the last words, and the pod is gone."""
        await asyncio.sleep(0.1 + 0.2 * self._dice.random())
        if play:
            play.cancel()
            await asyncio.wait({play})
        name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
        now = await self._insist("GET", path_of("Pod", self._namespace, name))
        if now and now["metadata"]["uid"] == uid and not _is_over(now):
            await self.say(pod, cut_short(now))
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0, "preconditions": {"uid": uid}}
        await self._insist("DELETE", path_of("Pod", self._namespace, name), body)

    async def say(self, pod: Json, status: Json) -> None:
        """Writes the pod's status; the uid makes sure that it is not a namesake's."""
        metadata = pod["metadata"]
        change = {"metadata": {"uid": metadata["uid"]}, "status": status}
        await self._insist("PATCH", path_of("Pod", self._namespace, metadata["name"], "status"), change, STRATEGIC)

    async def _insist(
        self, method: str, path: str, body: Json | None = None, content_type: str = "application/json"
    ) -> Json | None:
        """As kubelets do: again and again, unless the pod is gone or was done with before.

        What has begun is brought to its end even when the pod is told to end: a late word would be a wrong one.
        """
        calling = asyncio.create_task(self._try_on(method, path, body, content_type))
        try:
            return await asyncio.shield(calling)
        except asyncio.CancelledError:
            await calling
            raise

    async def _try_on(self, method: str, path: str, body: Json | None, content_type: str) -> Json | None:
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


def _is_over(pod: Json) -> bool:
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")
