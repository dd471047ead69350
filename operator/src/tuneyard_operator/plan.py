"""What a reconcile decided, as data."""

from typing import NamedTuple

from tuneyard_operator.events import Event
from tuneyard_operator.objects import Json


class Plan(NamedTuple):
    """What to do, in this order."""

    status: Json
    delete: list[Json] = []
    apply: list[Json] = []
    events: list[Event] = []
    again: float | None = None  # seconds until the next look; None: when something changes
