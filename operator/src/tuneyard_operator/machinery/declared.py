"""What the declarations of all controllers amount to: resources, watches, and the rules of the cache."""

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from tuneyard_operator.machinery.cache import CachedKind, Reader
from tuneyard_operator.machinery.controller import Controllers, Owns, Watches
from tuneyard_operator.machinery.objects import Json, Key, key_of
from tuneyard_operator.machinery.resources import DEPLOYMENT, EVENT, LEASE, Resource, Source

OWN: Final = (EVENT, LEASE, DEPLOYMENT)  # what the machinery itself reads and writes


def resources(controllers: Controllers) -> dict[str, Resource]:
    """All kinds that are read or written, by name. Raises ValueError where a kind is declared in two ways."""
    found: dict[str, Resource] = {}
    for resource in (*OWN, *_declared(controllers)):
        if found.setdefault(resource.kind, resource) != resource:
            raise ValueError(f"{resource.kind} is declared as {found[resource.kind]} and as {resource}")
    return found


def _declared(controllers: Controllers) -> Iterator[Resource]:
    for controller in controllers:
        yield controller.kind
        yield from (owned.resource for owned in controller.owns)
        yield from (watch.resource for watch in controller.watches)


def sources(controllers: Controllers) -> tuple[Source, ...]:
    """What is listed and watched: one source for each kind, and one for the warnings about each kind that wants them.

    A kind that somebody watches without a selector is watched without. Raises ValueError for two selectors of a kind:
    the list of one would drop the objects of the other from the cache.
    """
    selectors: dict[str, str] = {}
    for kind, labels in _watched(controllers):
        known = selectors.setdefault(kind, labels)
        if known and labels and known != labels:
            raise ValueError(f"{kind} is watched with the selectors {known} and {labels}: use the same one, or none")
        selectors[kind] = labels and known
    warned = {owned.resource.kind: None for each in controllers for owned in each.owns if owned.warnings}
    return (
        *(Source(kind, labels=labels) for kind, labels in selectors.items()),
        *(Source(EVENT.kind, fields=f"type=Warning,involvedObject.kind={kind}") for kind in warned),
    )


def _watched(controllers: Controllers) -> Iterator[tuple[str, str]]:
    """The kinds that the cache keeps, each with a label selector."""
    for controller in controllers:
        yield controller.kind.kind, ""
        yield from ((owned.resource.kind, owned.labels) for owned in controller.owns if owned.cached)
        yield from ((watch.resource.kind, watch.labels) for watch in controller.watches)


def cached_kinds(controllers: Controllers) -> dict[str, CachedKind]:
    """What the cache does with each kind that is watched. Raises ValueError where a kind is trimmed in two ways."""
    kinds = {kind: CachedKind() for kind, _ in _watched(controllers)}
    for controller in controllers:
        kind = controller.kind.kind
        state = controller.state.state if controller.state else None
        kinds[kind] = kinds[kind]._replace(reconciled=True, state=state)
        for owned in controller.owns:
            if owned.cached:
                known = kinds[owned.resource.kind]
                labels = (*known.owner_labels, (controller.owner_label, kind))
                kinds[owned.resource.kind] = known._replace(owner_labels=labels, trim=_trim(known, owned))
        for index in controller.indexes:
            known = kinds[index.resource.kind]
            kinds[index.resource.kind] = known._replace(references=(*known.references, index.keys))
        for watch in controller.watches:
            known = kinds[watch.resource.kind]
            mappers = (*known.enqueue, watch.enqueue)
            kinds[watch.resource.kind] = known._replace(trim=_trim(known, watch), enqueue=mappers)
    return kinds


def _trim(known: CachedKind, declared: Owns | Watches) -> Callable[[Json], Json] | None:
    if known.trim and declared.trim and known.trim != declared.trim:
        raise ValueError(f"{declared.resource.kind} is trimmed in two ways, by {known.trim} and {declared.trim}")
    return known.trim or declared.trim


def enqueue_requests(obj: Json, kinds: Mapping[str, CachedKind], cache: Reader) -> list[Key]:
    """The keys to reconcile after a change of an object: its own, its owners', and those that a watch maps it to."""
    kind = kinds[obj["kind"]]
    keys = (key_of(obj), *kind.owners(obj)) if kind.reconciled else kind.owners(obj)
    if not kind.enqueue:
        return list(keys)
    mapped = [key for enqueue in kind.enqueue for key in enqueue(obj, cache)]
    return list(dict.fromkeys((*keys, *mapped)))
