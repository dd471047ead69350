"""Events, as `kubectl describe` lists them. Their names are deterministic, so that no replica repeats one."""

from collections.abc import Iterable
from datetime import datetime
from typing import Final, NamedTuple

from tuneyard_operator.machinery.conditions import timestamp
from tuneyard_operator.machinery.objects import Json, generation, hash8, name, namespace, uid

MESSAGE_LIMIT: Final = 1000  # characters; the API server takes 1,024 bytes in events.k8s.io


class Event(NamedTuple):
    """`order` sorts events of the same second, because `kubectl describe` then goes by their names."""

    reason: str
    message: str
    order: int = 50
    warning: bool = False


def event_object(event: Event, about: Json, now: datetime, component: str) -> Json:
    """The core/v1 Event about an object; `component` is its source."""
    digest = hash8([event.reason, event.message])
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": f"{name(about)}.{uid(about)[:8]}.{generation(about):04}.{event.order:02}.{digest}",
            "namespace": namespace(about),
        },
        "involvedObject": {
            "apiVersion": about["apiVersion"],
            "kind": about["kind"],
            "name": name(about),
            "namespace": namespace(about),
            "uid": uid(about),
        },
        "type": "Warning" if event.warning else "Normal",
        "reason": event.reason,
        "message": event.message[:MESSAGE_LIMIT],
        "source": {"component": component},
        "firstTimestamp": timestamp(now),
        "lastTimestamp": timestamp(now),
        "count": 1,
        "reportingComponent": component,
        "reportingInstance": component,
    }


def event_objects(events: Iterable[Event], about: Json, now: datetime, component: str) -> list[Json]:
    return [event_object(event, about, now, component) for event in events]
