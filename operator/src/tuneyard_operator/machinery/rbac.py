"""The RBAC rules that the declarations of all controllers amount to: exactly what the operator calls."""

from collections.abc import Iterator
from typing import Final

from tuneyard_operator.machinery.controller import Controllers
from tuneyard_operator.machinery.objects import Json
from tuneyard_operator.machinery.resources import EVENT, Resource

READ: Final = ("list", "watch")
ORDER: Final = ("list", "watch", "create", "patch", "delete")


def rules(controllers: Controllers) -> list[Json]:
    """One rule for each resource or subresource. The Lease is not among them: its rule is bound to its name."""
    verbs: dict[tuple[str, str], set[str]] = {}
    for group, resource, allowed in _rights(controllers):
        verbs.setdefault((group, resource), set()).update(allowed)
    return [
        {"apiGroups": [group], "resources": [resource], "verbs": sorted(allowed, key=ORDER.index)}
        for (group, resource), allowed in verbs.items()
        if allowed
    ]


def _rights(controllers: Controllers) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """(API group, resource, verbs), where a resource may occur several times."""
    for controller in controllers:
        kind = controller.kind
        yield _right(kind, *READ, *controller.verbs)
        yield kind.group, f"{kind.plural}/status", ("patch",)
        for owned in controller.owns:
            yield _right(owned.resource, *(READ if owned.cached else ()), *owned.verbs)
            if owned.warnings:
                yield _right(EVENT, *READ)
        for watch in controller.watches:
            yield _right(watch.resource, *READ)
    yield _right(EVENT, "create")


def _right(resource: Resource, *verbs: str) -> tuple[str, str, tuple[str, ...]]:
    return resource.group, resource.plural, verbs
