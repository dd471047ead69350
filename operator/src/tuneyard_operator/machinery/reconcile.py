"""One reconcile: observe, plan, act, emit events, and write the status if it changed."""

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, Generic, TypeVar

from tuneyard_operator.machinery.cache import Cache
from tuneyard_operator.machinery.controller import Context, Controllers
from tuneyard_operator.machinery.errors import ApiError, Verdict, classify
from tuneyard_operator.machinery.events import event_objects
from tuneyard_operator.machinery.http import JsonReader
from tuneyard_operator.machinery.kube import Kube
from tuneyard_operator.machinery.objects import Json, Key, is_deleting, key_of, name
from tuneyard_operator.machinery.plan import Plan, Rejection

log = logging.getLogger(__name__)

REJECTED: Final = (400, 403, 413, 422)
EMITTED_LIMIT: Final = 10_000  # names of events that are remembered

S = TypeVar("S")


def utc_now() -> datetime:
    return datetime.now(UTC)


class Reconciler(Generic[S]):
    """The work of the queue. It reads from the cache and writes to the API server, whose answers it caches.

    `settings` are handed to every plan. `clock` is read once per reconcile: observation, plan and events get that time.
    """

    def __init__(
        self,
        kube: Kube,
        cache: Cache,
        controllers: Controllers,
        settings: S,
        http: JsonReader,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._kube = kube
        self._cache = cache
        self._controllers = {controller.kind.kind: controller for controller in controllers}
        self._settings = settings
        self._http = http
        self._clock = clock
        self._written: dict[Key, float] = {}
        self._emitted: set[str] = set()  # names of events; it only saves requests, because the names are deterministic

    async def __call__(self, key: Key) -> float | None:
        """Returns the seconds after which to reconcile again, or None; raises where a retry may help."""
        obj = self._cache.get(*key)
        if obj is None or is_deleting(obj):
            self._written.pop(key, None)  # the garbage collector deletes its children
            return None
        try:
            return await self._reconcile(key, obj)
        except ApiError as error:
            if classify(error) is Verdict.RETRY:
                raise
            log.info("%s", error)
            return None

    async def _reconcile(self, key: Key, obj: Json) -> float | None:
        controller, now = self._controllers[key.kind], self._clock()
        try:
            world = await controller.observe(obj, Context(self._cache, self._http, now, self._since_write(key)))
            plan = controller.plan(world, self._settings, now)
        except Exception as error:
            await self._report(key, obj, Plan(controller.defect(obj, error, now)), now)
            raise
        try:
            await self._act(plan)
        except Rejected as rejected:
            revised = controller.plan(world._replace(rejection=rejected.rejection), self._settings, now)
            await self._report(key, obj, revised, now)
            raise rejected.error from rejected
        await self._report(key, obj, plan, now)
        return plan.requeue_after

    async def _act(self, plan: Plan) -> None:
        for child in plan.delete:
            if not is_deleting(child):
                log.info("delete %s", key_of(child))
                left = await self._kube.delete(child)
                self._cache.put(left) if left else self._cache.remove(child)
        applied = [("apply", self._apply, child) for child in plan.apply]
        created = [("create", self._kube.create, child) for child in plan.create]
        for verb, write, child in applied + created:
            log.info("%s %s", verb, key_of(child))
            try:
                if written := await write(child):
                    self._cache.put(written)
            except ApiError as error:
                if error.status in REJECTED and classify(error) is not Verdict.WAIT:
                    raise Rejected(child, error) from error
                raise

    async def _apply(self, child: Json) -> Json:
        """Forces an object that is cached. One that is not may be another's, and the watch will report its owner."""
        known = not self._cache.keeps(child["kind"]) or self._cache.get(*key_of(child)) is not None
        return await self._kube.apply(child, force=known)

    async def _report(self, key: Key, obj: Json, plan: Plan, now: datetime) -> None:
        """Emits events first: they follow from what the status does not say yet, and a repeated one is not created."""
        for event in event_objects(plan.events, obj, now, self._kube.identity.component):
            if name(event) not in self._emitted:
                await self._emit(event)
        if len(self._emitted) > EMITTED_LIMIT:
            self._emitted.clear()
        if plan.status != obj.get("status", {}):
            self._cache.put(await self._kube.apply(_status_of(obj, plan.status), subresource="status"))
            self._written[key] = time.monotonic()
            self._controllers[key.kind].measure(obj.get("status", {}), plan.status)

    async def _emit(self, event: Json) -> None:
        try:
            if await self._kube.create(event):
                log.info("%s: %s", event["reason"], event["message"])
        except ApiError as error:
            if error.status not in REJECTED:
                raise
            log.warning("the event %s was rejected: %s", event["reason"], error)  # the status matters more
        self._emitted.add(name(event))

    def _since_write(self, key: Key) -> float:
        """Seconds since the status was written, or this process first saw the object."""
        now = time.monotonic()
        return now - self._written.setdefault(key, now)


class Rejected(Exception):
    """Carries a rejection from the act to the plan."""

    def __init__(self, obj: Json, error: ApiError) -> None:
        super().__init__(str(error))
        self.error = error
        final = classify(error) is Verdict.GIVE_UP
        self.rejection = Rejection(f"{obj['kind']} {name(obj)}", error.message, final)


def _status_of(obj: Json, status: Json) -> Json:
    """For server-side apply, which is rejected (409) for another object of that name or another resourceVersion."""
    metadata = {key: obj["metadata"][key] for key in ("name", "namespace", "uid", "resourceVersion")}
    return {"apiVersion": obj["apiVersion"], "kind": obj["kind"], "metadata": metadata, "status": status}
