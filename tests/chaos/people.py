"""What a person does while the storm is on, over and over until the API server takes it."""

import asyncio

from chaos.api import AWAY, Api, Json, Refused


class User:
    """Of one namespace."""

    def __init__(self, api: Api, namespace: str) -> None:
        self._api = api
        self._namespace = namespace

    async def apply(self, thing: Json) -> None:
        thing["metadata"]["namespace"] = self._namespace
        while True:
            try:
                await self._api.create(thing)
            except AWAY:
                await asyncio.sleep(0.5)
            except Refused as refused:
                if refused.status == 409:
                    return
                await asyncio.sleep(0.5)
            else:
                return

    async def apply_again(self, thing: Json, after: float) -> None:
        """Deleted in mid-run, and applied again as soon as the name is free."""
        await asyncio.sleep(after)
        name = thing["metadata"]["name"]
        while True:
            try:
                await self._api.delete(thing["kind"], self._namespace, name)
                if await self._api.get(thing["kind"], self._namespace, name) is None:
                    break
            except (*AWAY, Refused):
                pass
            await asyncio.sleep(0.2)
        await self.apply(thing)

    async def change(self, thing: Json) -> None:
        """Gives it another spec; the API server refuses that while it runs."""
        while not await self._patch(thing["kind"], thing["metadata"]["name"], {"spec": thing["spec"]}):
            await asyncio.sleep(0.5)

    async def set_model(self, name: str, model: Json) -> None:
        while not await self._patch("ModelServer", name, {"spec": {"model": model}}):
            await asyncio.sleep(0.5)

    async def _patch(self, kind: str, name: str, change: Json) -> bool:
        try:
            await self._api.patch(kind, self._namespace, name, change)
        except (*AWAY, Refused):
            return False
        return True

    async def unfinished(self) -> int:
        """How many FineTuneJobs have not come to their end."""
        while True:
            try:
                jobs = (await self._api.list("FineTuneJob", self._namespace))["items"]
            except (*AWAY, Refused):
                await asyncio.sleep(1)
            else:
                return sum(job.get("status", {}).get("phase") not in ("Succeeded", "Failed") for job in jobs)
