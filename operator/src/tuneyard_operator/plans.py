"""What a plan says is to be done."""

from typing import NamedTuple

from tuneyard_operator.events import Event
from tuneyard_operator.objects import Json


class Plan(NamedTuple):
    """In this order: delete, apply, create, tell, write the status."""

    status: Json
    delete: list[Json] = []
    apply: list[Json] = []
    create: list[Json] = []  # where it is not there: from then on others change it too
    events: list[Event] = []
    again: float | None = None  # seconds until the next look; None: when something changes


class Refusal(NamedTuple):
    """The API server did not take one of our objects."""

    what: str  # for example Job x
    message: str
    final: bool  # nobody but the user can help
