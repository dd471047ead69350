"""One reconcile: observe, plan, act, tell, and write the status if it changed."""

import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from typing import Any, Final, Generic, NamedTuple, Protocol, Self, TypeVar

from tuneyard_api.names import API_VERSION
from tuneyard_operator.machinery.cache import KEPT, Cache, Reader
from tuneyard_operator.machinery.errors import ApiError, Verdict, classify
from tuneyard_operator.machinery.events import event_objects
from tuneyard_operator.machinery.kube import Kube
from tuneyard_operator.machinery.objects import Json, Key, is_deleting, key_of, name
from tuneyard_operator.machinery.plan import Plan, Rejection
from tuneyard_operator.settings import Settings

log = logging.getLogger(__name__)

REJECTED: Final = (400, 403, 413, 422)
REMEMBERED: Final = 10_000  # events


class World(Protocol):
    """What was observed: a NamedTuple with a field `rejection`."""

    def _replace(self, *, rejection: Rejection) -> Self: ...


W = TypeVar("W", bound=World)


class Controller(NamedTuple, Generic[W]):
    """How one kind is observed (told: the seconds since its status was written or first seen), and what is planned."""

    kind: str
    observe: Callable[[Reader, Json, float], Awaitable[W]]
    plan: Callable[[W, Settings, datetime], Plan]
    measure: Callable[[Json, Json], None] = lambda before, after: None  # told the status that was, and that is, written


class Reconciler:
    """The work of the queue. It reads from the cache and writes to the API server, whose answers it puts there."""

    def __init__(self, kube: Kube, cache: Cache, settings: Settings, controllers: Iterable[Controller[Any]]) -> None:
        self._kube = kube
        self._cache = cache
        self._settings = settings
        self._controllers = {each.kind: each for each in controllers}
        self._written: dict[Key, float] = {}
        self._told: set[str] = set()  # only saves requests: an event's name says whether it was told

    async def __call__(self, key: Key) -> float | None:
        """Returns in how many seconds to look again; raises where a retry may help."""
        thing = self._cache.get(*key)
        if thing is None or is_deleting(thing):
            self._written.pop(key, None)  # its children go with it
            return None
        try:
            return await self._reconcile(key, thing)
        except ApiError as error:
            if classify(error) is Verdict.RETRY:
                raise
            log.info("%s", error)
            return None

    async def _reconcile(self, key: Key, thing: Json) -> float | None:
        controller = self._controllers[key.kind]
        world = await controller.observe(self._cache, thing, self._since_write(key))
        plan = controller.plan(world, self._settings, datetime.now(UTC))
        try:
            await self._act(plan)
        except Rejected as refused:
            again = controller.plan(world._replace(rejection=refused.rejection), self._settings, datetime.now(UTC))
            await self._tell(key, thing, again)
            raise refused.error from refused
        await self._tell(key, thing, plan)
        return plan.requeue_after

    async def _act(self, plan: Plan) -> None:
        for each in plan.delete:
            if not is_deleting(each):
                log.info("delete %s", key_of(each))
                left = await self._kube.delete(each)
                self._cache.put(left) if left else self._cache.remove(each)
        applied = [("apply", self._apply, each) for each in plan.apply]
        created = [("create", self._kube.create, each) for each in plan.create]
        for verb, write, each in applied + created:
            log.info("%s %s", verb, key_of(each))
            try:
                if written := await write(each):
                    self._cache.put(written)
            except ApiError as error:
                if error.status in REJECTED and classify(error) is not Verdict.WAIT:
                    raise Rejected(each, error) from error
                raise

    async def _apply(self, thing: Json) -> Json:
        """Makes what we have not heard of, but takes it from nobody who was faster: the watch will tell whose it is."""
        known = thing["kind"] not in KEPT or self._cache.get(*key_of(thing)) is not None
        return await self._kube.apply(thing, force=known)

    async def _tell(self, key: Key, thing: Json, plan: Plan) -> None:
        """Events first: they follow from what the status does not say yet, and by their names none is told twice."""
        for event in event_objects(plan.events, thing, datetime.now(UTC)):
            if name(event) not in self._told:
                await self._tell_event(event)
        if len(self._told) > REMEMBERED:
            self._told.clear()
        if plan.status != thing.get("status", {}):
            self._cache.put(await self._kube.apply(_status_of(thing, plan.status), subresource="status"))
            self._written[key] = time.monotonic()
            self._controllers[key.kind].measure(thing.get("status", {}), plan.status)

    async def _tell_event(self, event: Json) -> None:
        try:
            if await self._kube.create(event):
                log.info("%s: %s", event["reason"], event["message"])
        except ApiError as error:
            if error.status not in REJECTED:
                raise
            log.warning("the event %s is refused: %s", event["reason"], error)  # the status matters more
        self._told.add(name(event))

    def _since_write(self, key: Key) -> float:
        """Seconds since the status was written, or this process first looked at it."""
        now = time.monotonic()
        return now - self._written.setdefault(key, now)


class Rejected(Exception):
    """Carries a rejection from the act to the plan."""

    def __init__(self, thing: Json, error: ApiError) -> None:
        super().__init__(str(error))
        self.error = error
        final = classify(error) is Verdict.GIVE_UP
        self.rejection = Rejection(f"{thing['kind']} {name(thing)}", error.message, final)


def _status_of(thing: Json, status: Json) -> Json:
    """For server-side apply. Rejected (409) where it would go to a namesake, or to a version that we have not seen."""
    seen = {key: thing["metadata"][key] for key in ("name", "namespace", "uid", "resourceVersion")}
    return {"apiVersion": API_VERSION, "kind": thing["kind"], "metadata": seen, "status": status}
