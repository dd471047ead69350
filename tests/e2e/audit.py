"""Pure functions that compare RBAC rules with the API server's audit log: the operator's rights and its calls."""

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
    """The rights that Roles and ClusterRoles grant."""
    return {
        Right(group, resource, verb)
        for role in roles
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def calls(log: Iterable[str], since: datetime) -> Iterator[Json]:
    """The audit events about resources that were received at `since` or later; `log` has one JSON event per line."""
    for event in map(json.loads, log):
        received = datetime.fromisoformat(event["requestReceivedTimestamp"])
        if received >= since and event.get("objectRef", {}).get("resource"):
            yield event


def exercised(events: Iterable[Json]) -> set[Right]:
    """The rights that the calls needed."""
    used = set()
    for event in events:
        right = _right(event)
        used.add(right)
        if right.verb == "patch" and event.get("responseStatus", {}).get("code") == 201:
            used.add(right._replace(verb="create"))  # a server-side apply that creates the object needs both verbs
    return used


def refused(events: Iterable[Json]) -> set[Right]:
    """The calls that RBAC forbade. A quota or a namespace that is being deleted answers 403 to allowed calls too."""
    decision = "authorization.k8s.io/decision"
    return {_right(event) for event in events if event.get("annotations", {}).get(decision) == "forbid"}


def _right(event: Json) -> Right:
    reference = event["objectRef"]
    resource = "/".join(filter(None, (reference["resource"], reference.get("subresource"))))
    return Right(reference.get("apiGroup", ""), resource, event["verb"])
