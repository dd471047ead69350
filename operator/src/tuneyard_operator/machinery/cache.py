"""The state of the cluster as last observed, filled by the informers and by the answers to the operator's own writes.

Objects are kept as JSON: that takes a tenth of the memory of dicts, and a reader's changes to its copy stay its own.
"""

import sys
import time
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple, Protocol

import orjson

from tuneyard_operator.machinery.objects import Json, Key, key_of, name, namespace, uid, version

DELETED_LIMIT: Final = 20_000  # uids of deleted objects that are remembered
WARNINGS_LIMIT: Final = 10_000
LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"


class Reader(Protocol):
    """What a reconcile may ask. Each answer is a copy of its own."""

    def get(self, kind: str, namespace: str, name: str) -> Json | None: ...

    def children(self, kind: str, owner: Key) -> list[Json]:
        """The objects of a kind that belong to the owner by its label, or refer to it by an index, sorted by name."""
        ...

    def child_keys(self, kind: str, owner: Key) -> list[Key]:
        """The keys of these children."""
        ...

    def warning(self, uid: str) -> str:
        """The last warning event about the object with that uid, or an empty string."""
        ...

    def seconds_since_last_event(self, key: Key) -> float:
        """Seconds since the last change of that object or its children, or the last warning about them."""
        ...


class CachedKind(NamedTuple):
    """What the cache does with the objects of one kind."""

    reconciled: bool = False  # a controller reconciles objects of this kind
    owner_labels: tuple[tuple[str, str], ...] = ()  # (label that names the owner, kind of the owner)
    references: tuple[Callable[[Json], Iterable[Key]], ...] = ()  # keys of objects that an object refers to
    enqueue: tuple[Callable[[Json, Reader], Iterable[Key]], ...] = ()  # keys to reconcile after a change
    trim: Callable[[Json], Json] | None = None  # what is kept of an object; None: all of it
    state: Callable[[Json], str] | None = None  # the state in which an object is counted

    def owners(self, obj: Json) -> tuple[Key, ...]:
        """The owners that the object's labels name."""
        labels = obj["metadata"].get("labels")
        if not labels or not self.owner_labels:
            return ()
        return tuple([Key(kind, namespace(obj), labels[key]) for key, kind in self.owner_labels if labels.get(key)])

    def owner_keys(self, obj: Json) -> tuple[Key, ...]:
        """All keys by which the object is found: its owners, and the objects that it refers to."""
        owners = self.owners(obj)
        if not self.references:
            return owners
        return (*owners, *(key for keys in self.references for key in keys(obj)))


class _Entry(NamedTuple):
    raw: bytes
    version: int
    uid: str
    owners: tuple[Key, ...]
    state: str


class _Warning(NamedTuple):
    version: int
    event_uid: str
    time: str
    text: str


OnChange = Callable[[Json], None]


class Cache:
    """The newest version of an object wins, whoever brings it.

    `kinds`: the kinds that are kept. `on_change` is called with each object that is new, newer or deleted. `clock`
    returns seconds; events are timed by it.
    """

    def __init__(
        self,
        kinds: Mapping[str, CachedKind],
        on_change: OnChange = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kinds = kinds
        self._on_change = on_change
        self._clock = clock
        self._entries: defaultdict[str, dict[tuple[str, str], _Entry]] = defaultdict(dict)
        self._children: defaultdict[tuple[str, Key], set[tuple[str, str]]] = defaultdict(set)  # (namespace, name)
        self._warnings: OrderedDict[str, _Warning] = OrderedDict()  # by the uid of the object that they are about
        self._deleted: OrderedDict[str, None] = OrderedDict()  # uids; none of them ever comes back
        self._states: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._last_events: dict[Key, float] = {}

    def keeps(self, kind: str) -> bool:
        """Whether objects of that kind are watched, so that an absent one does not exist."""
        return kind in self._kinds

    def get(self, kind: str, namespace: str, name: str) -> Json | None:
        entry = self._entries[kind].get((namespace, name))
        return orjson.loads(entry.raw) if entry else None

    def children(self, kind: str, owner: Key) -> list[Json]:
        entries = self._entries[kind]
        return [orjson.loads(entries[place].raw) for place in self._places(kind, owner)]

    def child_keys(self, kind: str, owner: Key) -> list[Key]:
        return [Key(kind, *place) for place in self._places(kind, owner)]

    def _places(self, kind: str, owner: Key) -> list[tuple[str, str]]:
        return sorted(self._children.get((kind, owner), ()))

    def warning(self, uid: str) -> str:
        found = self._warnings.get(uid)
        return found.text if found else ""

    def seconds_since_last_event(self, key: Key) -> float:
        return self._clock() - self._last_events[key] if key in self._last_events else 0.0

    def states(self, kind: str) -> Counter[str]:
        """How many objects of a kind are in each state."""
        return self._states[kind]

    def put(self, obj: Json) -> None:
        """Stores an object, unless a newer version is known, it was deleted, or its kind is not watched."""
        kind = obj["kind"]
        if kind == "Event":
            self._put_warning(obj)
            return
        if kind not in self._kinds or uid(obj) in self._deleted:
            return
        place = (namespace(obj), name(obj))
        before = self._entries[kind].get(place)
        if before and before.version >= version(obj):
            return
        if before:
            self._drop(kind, place, before)
        self._store(kind, place, obj)
        self._notify(obj)

    def remove(self, obj: Json) -> None:
        """Drops a deleted object: its uid never comes back, but a new object of its name stays."""
        kind = obj["kind"]
        if kind == "Event":
            self._remove_warning(obj)
            return
        self._remember_deleted(uid(obj))
        place = (namespace(obj), name(obj))
        before = self._entries[kind].get(place)
        if before and before.uid == uid(obj):
            self._drop(kind, place, before)
            self._notify(orjson.loads(before.raw))

    def keep_only(self, kind: str, namespace: str, found: Iterable[str], as_of: int) -> None:
        """Ends a list: objects that it did not have were deleted, except those created after its version `as_of`.

        `namespace`: empty where the whole cluster was listed; `found`: uids.
        """
        listed = set(found)
        missing = [
            entry
            for place, entry in self._entries[kind].items()
            if namespace in ("", place[0]) and entry.uid not in listed and entry.version <= as_of
        ]
        for entry in missing:
            self.remove(orjson.loads(entry.raw))

    def _store(self, kind: str, place: tuple[str, str], obj: Json) -> None:
        rules = self._kinds[kind]
        state = sys.intern(rules.state(obj)) if rules.state else ""
        # A copy, because orjson's buffer is larger than its text, and shrinking it would fragment the heap.
        raw = bytes(memoryview(orjson.dumps(trimmed(obj, rules))))
        entry = _Entry(raw, version(obj), uid(obj), rules.owner_keys(obj), state)
        self._entries[kind][place] = entry
        for owner in entry.owners:
            self._children[kind, owner].add(place)
        if state:
            self._states[kind][state] += 1

    def _drop(self, kind: str, place: tuple[str, str], entry: _Entry) -> None:
        del self._entries[kind][place]
        for owner in set(entry.owners):
            siblings = self._children[kind, owner]
            siblings.discard(place)
            if not siblings:
                del self._children[kind, owner]
        if entry.state:
            self._states[kind][entry.state] -= 1

    def _remember_deleted(self, deleted: str) -> None:
        self._deleted[deleted] = None
        if len(self._deleted) > DELETED_LIMIT:
            self._deleted.popitem(last=False)
        self._warnings.pop(deleted, None)

    def _put_warning(self, event: Json) -> None:
        about = event["involvedObject"]["uid"]
        text = f"{event.get('reason')}: {event.get('message')}"
        warning = _Warning(version(event), uid(event), _last_seen(event), text)
        before = self._warnings.get(about)
        if about in self._deleted or (before and (before.time, before.version) >= (warning.time, warning.version)):
            return
        self._warnings[about] = warning
        self._warnings.move_to_end(about)
        if len(self._warnings) > WARNINGS_LIMIT:
            self._warnings.popitem(last=False)
        self._notify_involved(event)

    def _remove_warning(self, event: Json) -> None:
        about = event["involvedObject"]["uid"]
        if (known := self._warnings.get(about)) and known.event_uid == uid(event):
            del self._warnings[about]

    def _notify_involved(self, event: Json) -> None:
        """A warning counts as a change of the object that it is about."""
        about = event["involvedObject"]
        obj = self.get(about.get("kind", ""), about.get("namespace", ""), about.get("name", ""))
        if obj and uid(obj) == about.get("uid"):
            self._notify(obj)

    def _notify(self, obj: Json) -> None:
        rules = self._kinds[obj["kind"]]
        keys = (key_of(obj), *rules.owners(obj)) if rules.reconciled else rules.owners(obj)
        for key in keys:
            if (key.namespace, key.name) in self._entries[key.kind]:
                self._last_events[key] = self._clock()
            else:
                self._last_events.pop(key, None)
        self._on_change(obj)


def trimmed(obj: Json, rules: CachedKind) -> Json:
    """The object without the fields that no plan reads."""
    if rules.trim:
        obj = rules.trim(obj)
    metadata: dict[str, Any] = {key: value for key, value in obj["metadata"].items() if key != "managedFields"}
    if LAST_APPLIED in metadata.get("annotations", {}):
        metadata["annotations"] = {key: text for key, text in metadata["annotations"].items() if key != LAST_APPLIED}
    return obj | {"metadata": metadata}


def identity_only(obj: Json) -> Json:
    """A trim that keeps which object it is and whose it is, but neither spec nor status."""
    kept = ("name", "namespace", "uid", "resourceVersion", "ownerReferences")
    metadata = obj["metadata"]
    return {"kind": obj["kind"], "metadata": {key: metadata[key] for key in kept if key in metadata}}


def _last_seen(event: Json) -> str:
    """When an event last happened; events.k8s.io has a field of its own for that."""
    series = event.get("series") or {}
    return str(series.get("lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime") or "")
