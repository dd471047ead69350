"""Leader election: of several replicas the one that holds the Lease reconciles.

Rules and times are those of client-go's tools/leaderelection. A holder counts as gone when this process has observed no
change of the Lease for as long as it is valid. The times written in it are not read, so clocks need not agree. Writes
carry the observed resourceVersion, so of two candidates one wins.
"""

import asyncio
import logging
from contextlib import aclosing
from typing import Final

from tuneyard_operator.machinery.errors import ApiError, described
from tuneyard_operator.machinery.kube import Kube
from tuneyard_operator.machinery.lease import DEFAULT, Record, Timing, may_acquire
from tuneyard_operator.machinery.objects import Json, name, uid
from tuneyard_operator.machinery.resources import Source

log = logging.getLogger(__name__)

NEVER: Final = -float("inf")
WATCH_SECONDS: Final = 600  # one watch of a standby
BETWEEN_WATCHES: Final = 0.5  # seconds, so that a server that ends each watch at once causes no busy loop


class Election:
    """Call `acquire`, then `renew`, and `release` at the end. No two processes may have the same identity.

    The Lease has the name of the Deployment that runs the replicas, and is owned by it.
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
        self._renewed_at = NEVER  # when the last successful write began

    @property
    def leads(self) -> bool:
        return _now() < self._renewed_at + self._timing.deadline

    async def acquire(self) -> None:
        """Returns once this process leads. A standby waits in a watch, which costs no requests."""
        while True:
            try:
                async with asyncio.timeout(self._timing.request_timeout()):
                    if self._owners is None:
                        self._owners = await self._deployment()
                    await self._observe()
                    if await self._try_to_acquire():
                        log.info("%s is the leader", self._identity)
                        return
                await self._until_free()
            except (ApiError, TimeoutError) as error:
                log.warning("waiting for the Lease: %s", described(error))
                await asyncio.sleep(self._timing.retry_period())

    async def renew(self) -> None:
        """Returns once leadership is lost, before another process can have it. Nothing may be written after that."""
        try:
            while True:
                async with asyncio.timeout_at(self._renewed_at + self._timing.deadline):
                    if not await self._keep():
                        log.error("%s has lost the Lease to %s", self._identity, self._record.holder or "nobody")
                        return
        except TimeoutError:
            log.error("%s could not renew the Lease within %s s", self._identity, self._timing.deadline)  # noqa: TRY400
        finally:
            self._renewed_at = NEVER

    async def release(self) -> None:
        """Lets another process lead at once. Call it after the last write; without leadership it does nothing."""
        try:
            async with asyncio.timeout(self._timing.request_timeout()):
                await self._observe()
                if self._is_ours():
                    await self._write(self._record.released())
                    log.info("%s has released the Lease", self._identity)
        except (ApiError, TimeoutError) as error:
            log.warning("the Lease was not released: %s", described(error))

    async def _try_to_acquire(self) -> bool:
        now = _now()
        if may_acquire(self._record, self._observed_at, now, self._identity):
            await self._write(self._record.acquired_by(self._identity, self._timing.lease))
            if self._is_ours():
                self._renewed_at = now
                return True
        return False

    async def _keep(self) -> bool:
        """Returns False when the Lease is another's. Retries until that is known; the caller limits the time."""
        while True:
            await asyncio.sleep(self._timing.retry_period())
            try:
                async with asyncio.timeout(self._timing.request_timeout()):
                    return await self._renew_once()
            except (ApiError, TimeoutError) as error:
                log.warning("renewing the Lease: %s", described(error))

    async def _renew_once(self) -> bool:
        now = _now()
        try:
            await self._write(self._record.renewed_now())
        except ApiError as error:
            if error.status not in (404, 409):
                raise
            # Somebody else wrote, or an earlier write succeeded although its response was lost.
            await self._observe()
            if not self._is_ours():
                return False
            await self._write(self._record.renewed_now())
        self._renewed_at = now
        return True

    async def _until_free(self) -> None:
        """Returns when the Lease is released, deleted or expired, or the watch ends."""
        if self._lease is None:
            return
        source = Source("Lease", self._namespace, fields=f"metadata.name={self._name}")
        # From version 0: the version of a Lease that nobody renews may be too old to watch from.
        changes = self._kube.watch(source, 0, WATCH_SECONDS)
        try:
            async with asyncio.timeout_at(self._observed_at + self._record.seconds) as limit, aclosing(changes):
                async for change in changes:
                    if change["type"] == "BOOKMARK":
                        continue
                    self._record_observation(None if change["type"] == "DELETED" else change["object"])
                    if not self._record.holder:
                        return
                    limit.reschedule(self._observed_at + self._record.seconds)
                await asyncio.sleep(BETWEEN_WATCHES)
        except TimeoutError:
            log.info("%s has not renewed the Lease for %s s", self._record.holder, self._record.seconds)

    def _is_ours(self) -> bool:
        return self._record.holder == self._identity

    async def _observe(self) -> None:
        self._record_observation(await self._kube.get("Lease", self._namespace, self._name))

    def _record_observation(self, lease: Json | None) -> None:
        record = Record.of(lease)
        if record != self._record:  # another label, for example, is no renewal
            self._observed_at = _now()
        self._lease, self._record = lease, record

    async def _deployment(self) -> list[Json]:
        """The owner of the Lease, which is deleted with it; none where no Deployment runs this process.

        It is read once: a standby that outlives its Deployment must not create a Lease without an owner.
        """
        found = await self._kube.get("Deployment", self._namespace, self._name)
        if found is None:
            return []
        return [{"apiVersion": "apps/v1", "kind": "Deployment", "name": name(found), "uid": uid(found)}]

    async def _write(self, record: Record) -> None:
        owners = {"ownerReferences": self._owners or []}
        if self._lease is not None:
            changed = {"metadata": self._lease["metadata"] | owners, "spec": record.spec()}
            self._record_observation(await self._kube.replace(self._lease | changed))
            return
        metadata = {"namespace": self._namespace, "name": self._name, **owners}
        api = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}
        await self._kube.create({**api, "metadata": metadata, "spec": record.spec()})
        await self._observe()


def _now() -> float:
    return asyncio.get_running_loop().time()
