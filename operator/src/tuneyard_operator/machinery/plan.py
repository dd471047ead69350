"""What a plan asks the reconciler to do."""

from typing import Final, NamedTuple

from tuneyard_operator.machinery.events import Event
from tuneyard_operator.machinery.objects import Json

# A workload that lacks a pod, and had no event for so long, will not get one. Its controller expects a deleted pod for
# five minutes, after which nothing enqueues it again (ExpectationsTimeout in Kubernetes'
# pkg/controller/controller_utils.go). A quota that keeps a Job from its pods does cause events: the warning is repeated
# every six minutes at the latest (defaultSpamQPS in client-go's tools/record/events_cache.go).
STALLED_SECONDS: Final = 420.0


class Plan(NamedTuple):
    """Done in this order: delete, apply, create, emit the events, write the status."""

    status: Json
    delete: list[Json] = []
    apply: list[Json] = []
    create: list[Json] = []  # only where it does not exist: others change it later
    events: list[Event] = []
    requeue_after: float | None = None  # seconds; None: when something changes


class Rejection(NamedTuple):
    """The API server rejected an object of the plan."""

    what: str  # kind and name, for example: Job x
    message: str
    final: bool  # it will be rejected again until the spec changes
