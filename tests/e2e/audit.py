"""What the operator may do and what it did: RBAC rules against the API server's audit log. Pure functions."""

import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import NamedTuple

from demo.kubectl import Json


class Right(NamedTuple):
    """One verb on one resource; `resource` may be resource/subresource, the core group is empty."""

    group: str
    resource: str
    verb: str

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}{f'.{self.group}' if self.group else ''}"


def granted(roles: Iterable[Json]) -> set[Right]:
    """All that Roles and ClusterRoles allow."""
    return {
        Right(group, resource, verb)
        for role in roles
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def calls(log: Iterable[str], since: datetime) -> Iterator[Json]:
    """The audit events about resources from that moment on; `log` is JSON lines."""
    for event in map(json.loads, log):
        asked_at = datetime.fromisoformat(event["requestReceivedTimestamp"])
        if asked_at >= since and event.get("objectRef", {}).get("resource"):
            yield event


def exercised(events: Iterable[Json]) -> set[Right]:
    """The rights that the calls needed."""
    used = set()
    for event in events:
        right = _right(event)
        used.add(right)
        if right.verb == "patch" and event.get("responseStatus", {}).get("code") == 201:
            used.add(right._replace(verb="create"))  # server-side apply of what was not there asks for both
    return used


def refused(events: Iterable[Json]) -> set[Right]:
    """Calls that RBAC forbade. A quota or a namespace that goes answers 403 too, to a call that was allowed."""
    decision = "authorization.k8s.io/decision"
    return {_right(event) for event in events if event.get("annotations", {}).get(decision) == "forbid"}


def _right(event: Json) -> Right:
    thing = event["objectRef"]
    resource = "/".join(filter(None, (thing["resource"], thing.get("subresource"))))
    return Right(thing.get("apiGroup", ""), resource, event["verb"])
