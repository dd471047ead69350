"""What a plan says is to be done."""

from typing import Final, NamedTuple

from tuneyard_operator.machinery.events import Event
from tuneyard_operator.machinery.objects import Json

# What lacks a pod, and of which nothing is heard for so long, will not get one: its controller still expects a pod that
# is gone already for five minutes, and then nothing makes it look again (ExpectationsTimeout in Kubernetes'
# pkg/controller/controller_utils.go). Of a Job that a quota keeps from its pods something is heard: its warning is
# repeated each six minutes at the latest (defaultSpamQPS in client-go's tools/record/events_cache.go).
SILENT_SECONDS: Final = 420.0


class Plan(NamedTuple):
    """In this order: delete, apply, create, tell, write the status."""

    status: Json
    delete: list[Json] = []
    apply: list[Json] = []
    create: list[Json] = []  # where it is not there: from then on others change it too
    events: list[Event] = []
    requeue_after: float | None = None  # seconds until the next look; None: when something changes


class Rejection(NamedTuple):
    """The API server did not take one of our objects."""

    what: str  # for example Job x
    message: str
    final: bool  # nobody but the user can help
