"""Carries a plan out: delete, create, one status write if it changed, then the events."""

import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, Protocol

from tuneyard_operator.events import Event, event_objects
from tuneyard_operator.kube import Kube
from tuneyard_operator.objects import Json, is_going, name, uid
from tuneyard_operator.plan import Plan

REMEMBERED: Final = 10_000  # events


class Clock(Protocol):
    def __call__(self) -> datetime: ...


def now() -> datetime:
    return datetime.now(UTC)


class Actor:
    """Remembers only what saves requests: nothing that a decision depends on."""

    def __init__(self, kube: Kube, clock: Clock = now, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.kube = kube
        self.clock = clock
        self._monotonic = monotonic
        self._written: dict[str, float] = {}  # uid: when
        self._told: OrderedDict[str, None] = OrderedDict()

    def since_write(self, thing: Json) -> float:
        """Seconds since this process wrote the object's status; infinite when it never did."""
        return self._monotonic() - self._written.get(uid(thing), float("-inf"))

    def forget(self, thing: Json) -> None:
        self._written.pop(uid(thing), None)

    async def carry_out(self, thing: Json, plan: Plan) -> None:
        for child in plan.delete:
            if not is_going(child):
                await self.kube.delete(child)
        for child in plan.apply:
            await self.kube.apply(child, uid(thing))
        if plan.status != thing.get("status", {}):
            await self.kube.apply_status(thing, plan.status)
            self._written[uid(thing)] = self._monotonic()
        await self._tell(thing, plan.events)

    async def _tell(self, thing: Json, events: list[Event]) -> None:
        for event in event_objects(events, thing, self.clock()):
            if name(event) not in self._told:
                await self.kube.create_event(event)
                self._told[name(event)] = None
        while len(self._told) > REMEMBERED:
            self._told.popitem(last=False)
