"""Events tell the story in `kubectl describe`. Their names are deterministic: each is told once, whoever tells it."""

from collections.abc import Iterable
from datetime import datetime
from typing import Final, NamedTuple

from tuneyard_api.names import API_VERSION
from tuneyard_operator.machinery.conditions import timestamp
from tuneyard_operator.machinery.objects import Json, generation, hash8, name, namespace, uid

COMPONENT: Final = "tuneyard"
MESSAGE_LIMIT: Final = 1000  # characters; the API server takes 1,024 bytes in events.k8s.io


class Event(NamedTuple):
    """`order` sorts events of the same second, because `kubectl describe` then goes by their names."""

    reason: str
    message: str
    order: int = 50
    warning: bool = False


def event_object(event: Event, about: Json, now: datetime) -> Json:
    told = hash8([event.reason, event.message])
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": f"{name(about)}.{uid(about)[:8]}.{generation(about):04}.{event.order:02}.{told}",
            "namespace": namespace(about),
        },
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": about["kind"],
            "name": name(about),
            "namespace": namespace(about),
            "uid": uid(about),
        },
        "type": "Warning" if event.warning else "Normal",
        "reason": event.reason,
        "message": event.message[:MESSAGE_LIMIT],
        "source": {"component": COMPONENT},
        "firstTimestamp": timestamp(now),
        "lastTimestamp": timestamp(now),
        "count": 1,
        "reportingComponent": COMPONENT,
        "reportingInstance": COMPONENT,
    }


def event_objects(events: Iterable[Event], about: Json, now: datetime) -> list[Json]:
    return [event_object(event, about, now) for event in events]
