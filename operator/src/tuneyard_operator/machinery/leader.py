"""Which of several operators works: the one that holds the Lease.

Source of the rules and the times: client-go's tools/leaderelection. A holder is taken for gone when the Lease has not
changed before our own eyes for as long as it holds; the times written in it are not looked at, so clocks need not
agree. Writes carry the resourceVersion that was seen, so of two candidates one wins.
"""

import asyncio
import logging
from contextlib import aclosing
from typing import Final

from tuneyard_operator.machinery.errors import ApiError
from tuneyard_operator.machinery.kube import Kube
from tuneyard_operator.machinery.lease import DEFAULT, Record, Timing, may_take
from tuneyard_operator.machinery.objects import Json, name, uid
from tuneyard_operator.machinery.resources import Source

log = logging.getLogger(__name__)

NEVER: Final = -float("inf")
STREAM_SECONDS: Final = 600  # one watch of a standby
BETWEEN_STREAMS: Final = 0.5  # seconds: a server that ends each watch at once is not asked in a busy loop


class Election:
    """First `acquire`, then `renew`, and `release` at the end. No two processes may have the same identity.

    The Lease has the name of the Deployment that runs them, and belongs to it.
    """

    def __init__(self, kube: Kube, identity: str, namespace: str, name: str, timing: Timing = DEFAULT) -> None:
        self._kube = kube
        self._identity = identity
        self._namespace = namespace
        self._name = name
        self._timing = timing
        self._lease: Json | None = None
        self._owners: list[Json] | None = None  # not yet known
        self._record = Record()
        self._observed_at = NEVER
        self._led_at = NEVER  # when the last write that went well was begun

    @property
    def leads(self) -> bool:
        return _now() < self._led_at + self._timing.deadline

    async def acquire(self) -> None:
        """Returns when this process leads. A standby waits in a watch, which costs no requests."""
        while True:
            try:
                async with asyncio.timeout(self._timing.patience()):
                    if self._owners is None:
                        self._owners = await self._deployment()
                    await self._look()
                    if await self._claim():
                        log.info("%s leads", self._identity)
                        return
                await self._until_free()
            except (ApiError, TimeoutError) as error:
                log.warning("waiting for the Lease: %s", error or type(error).__name__)
                await asyncio.sleep(self._timing.pause())

    async def renew(self) -> None:
        """Returns when this process leads no longer, before another one can: nothing of it may write any more."""
        try:
            while True:
                async with asyncio.timeout_at(self._led_at + self._timing.deadline):
                    if not await self._renewed():
                        log.error("%s has lost the Lease to %s", self._identity, self._record.holder or "nobody")
                        return
        except TimeoutError:
            log.error("%s could not renew the Lease for %s s", self._identity, self._timing.deadline)  # noqa: TRY400
        finally:
            self._led_at = NEVER

    async def release(self) -> None:
        """Hands over at once; for after the last write. Where another one leads it does nothing."""
        try:
            async with asyncio.timeout(self._timing.patience()):
                await self._look()
                if self._is_ours():
                    await self._write(self._record.released())
                    log.info("%s hands over", self._identity)
        except (ApiError, TimeoutError) as error:
            log.warning("the Lease was not released: %s", error or type(error).__name__)

    async def _claim(self) -> bool:
        now = _now()
        if may_take(self._record, self._observed_at, now, self._identity):
            await self._write(self._record.taken(self._identity, self._timing.lease))
            if self._is_ours():
                self._led_at = now
                return True
        return False

    async def _renewed(self) -> bool:
        """False when the Lease is another's. Tries until it knows; who calls it sets the limit."""
        while True:
            await asyncio.sleep(self._timing.pause())
            try:
                async with asyncio.timeout(self._timing.patience()):
                    return await self._extend()
            except (ApiError, TimeoutError) as error:
                log.warning("renewing the Lease: %s", error or type(error).__name__)

    async def _extend(self) -> bool:
        now = _now()
        try:
            await self._write(self._record.extended())
        except ApiError as error:
            if error.status not in (404, 409):
                raise
            # Somebody else wrote, or a write of ours arrived although we never heard so.
            await self._look()
            if not self._is_ours():
                return False
            await self._write(self._record.extended())
        self._led_at = now
        return True

    async def _until_free(self) -> None:
        """Until the Lease is released or deleted, its holder has been silent for too long, or the watch ends."""
        if self._lease is None:
            return
        here = Source("Lease", self._namespace, fields=f"metadata.name={self._name}")
        # From what is there: the version of a Lease that nobody renews may be too old to watch from.
        changes = self._kube.watch(here, 0, STREAM_SECONDS)
        try:
            async with asyncio.timeout_at(self._observed_at + self._record.seconds) as limit, aclosing(changes):
                async for change in changes:
                    if change["type"] == "BOOKMARK":
                        continue
                    self._note(None if change["type"] == "DELETED" else change["object"])
                    if not self._record.holder:
                        return
                    limit.reschedule(self._observed_at + self._record.seconds)
                await asyncio.sleep(BETWEEN_STREAMS)
        except TimeoutError:
            log.info("%s has been silent for %s s", self._record.holder, self._record.seconds)

    def _is_ours(self) -> bool:
        return self._record.holder == self._identity

    async def _look(self) -> None:
        self._note(await self._kube.get("Lease", self._namespace, self._name))

    def _note(self, lease: Json | None) -> None:
        record = Record.of(lease)
        if record != self._record:  # a new label is no sign of life
            self._observed_at = _now()
        self._lease, self._record = lease, record

    async def _deployment(self) -> list[Json]:
        """The Lease's owner, so that it goes with the installation; none where no Deployment runs this process.

        It is read once: a standby that outlives its Deployment for a moment must not make a Lease that stays.
        """
        found = await self._kube.get("Deployment", self._namespace, self._name)
        if found is None:
            return []
        return [{"apiVersion": "apps/v1", "kind": "Deployment", "name": name(found), "uid": uid(found)}]

    async def _write(self, record: Record) -> None:
        owners = {"ownerReferences": self._owners or []}
        if self._lease is not None:
            written = {"metadata": self._lease["metadata"] | owners, "spec": record.spec()}
            self._note(await self._kube.replace(self._lease | written))
            return
        metadata = {"namespace": self._namespace, "name": self._name, **owners}
        api = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}
        await self._kube.create({**api, "metadata": metadata, "spec": record.spec()})
        await self._look()


def _now() -> float:
    return asyncio.get_running_loop().time()
