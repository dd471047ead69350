"""What is in the cluster, as far as we have heard: filled by the informers and by the answers to our own writes.

Objects are kept as JSON: that takes a tenth of the memory of dicts, and what a reader changes in its copy nobody sees.
"""

import sys
import time
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple, Protocol

import orjson

from tuneyard_api import names
from tuneyard_operator.machinery.objects import (
    Json,
    Key,
    is_condition_true,
    key_of,
    label,
    name,
    namespace,
    uid,
    version,
)

KEPT: Final = ("FineTuneJob", "ModelServer", "Job", "Pod", "Deployment", "Service")
REMEMBERED: Final = 20_000  # objects that are gone
WARNINGS: Final = 10_000
LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"
OWNERS: Final = ((names.LABEL_FINETUNEJOB, "FineTuneJob"), (names.LABEL_MODELSERVER, "ModelServer"))

# What is counted of a kind; each object is in one state.
STATES: Final[Mapping[str, Callable[[Json], str]]] = {
    "FineTuneJob": lambda job: job.get("status", {}).get("phase", "Pending"),
    "ModelServer": lambda server: str(is_condition_true(server, "Available")).lower(),
}


class Reader(Protocol):
    """What a reconcile may ask. Each answer is a copy of its own."""

    def get(self, kind: str, namespace: str, name: str) -> Json | None: ...

    def children(self, kind: str, owner: Key) -> list[Json]:
        """Objects of that kind that carry the owner's label, or ModelServers that follow it; by name."""
        ...

    def warning(self, uid: str) -> str:
        """The last warning event about that Job or pod, or an empty string."""
        ...

    def silence(self, owner: Key) -> float:
        """Seconds since anything new was heard of that object, what belongs to it, or warnings about it."""
        ...


class _Entry(NamedTuple):
    raw: bytes
    version: int
    uid: str
    owner: Key | None
    state: str


class _Warning(NamedTuple):
    version: int
    event_uid: str
    time: str
    text: str


Changed = Callable[[Json], None]


class Cache:
    """Newest wins, whoever brings it. `changed` is told of each object that is new, newer or gone."""

    def __init__(self, changed: Changed = lambda _: None) -> None:
        self._changed = changed
        self._entries: defaultdict[str, dict[tuple[str, str], _Entry]] = defaultdict(dict)
        self._children: defaultdict[tuple[str, Key], set[str]] = defaultdict(set)
        self._warnings: OrderedDict[str, _Warning] = OrderedDict()  # by the uid of what they are about
        self._gone: OrderedDict[str, None] = OrderedDict()  # uids; none ever comes back
        self._states: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._heard: dict[Key, float] = {}

    def get(self, kind: str, namespace: str, name: str) -> Json | None:
        entry = self._entries[kind].get((namespace, name))
        return orjson.loads(entry.raw) if entry else None

    def children(self, kind: str, owner: Key) -> list[Json]:
        entries = self._entries[kind]
        return [orjson.loads(entries[owner.namespace, each].raw) for each in self.child_names(kind, owner)]

    def child_names(self, kind: str, owner: Key) -> list[str]:
        return sorted(self._children.get((kind, owner), ()))

    def warning(self, uid: str) -> str:
        found = self._warnings.get(uid)
        return found.text if found else ""

    def silence(self, owner: Key) -> float:
        return time.monotonic() - self._heard[owner] if owner in self._heard else 0.0

    def states(self, kind: str) -> Counter[str]:
        """How many objects of a kind are in each state."""
        return self._states[kind]

    def put(self, thing: Json) -> None:
        """Takes an object in, unless something newer is known, it is gone for good, or nothing watches its kind."""
        if thing["kind"] == "Event":
            self._put_warning(thing)
            return
        kind, place = thing["kind"], (namespace(thing), name(thing))
        before = self._entries[kind].get(place)
        if kind not in KEPT or uid(thing) in self._gone or (before and before.version >= version(thing)):
            return
        if before:
            self._drop(kind, place, before)
        self._keep(kind, place, thing)
        self._tell(thing)

    def remove(self, thing: Json) -> None:
        """It is gone: its uid comes never back, and a newer object of that name stays."""
        if thing["kind"] == "Event":
            self._remove_warning(thing)
            return
        self._bury(uid(thing))
        kind, place = thing["kind"], (namespace(thing), name(thing))
        before = self._entries[kind].get(place)
        if before and before.uid == uid(thing):
            self._drop(kind, place, before)
            self._tell(orjson.loads(before.raw))

    def keep_only(self, kind: str, namespace: str, found: Iterable[str], as_of: int) -> None:
        """Ends a list: what it did not have is gone, but for what was created after it (`as_of`, its version).

        `namespace`: empty where the whole cluster was listed; `found`: uids.
        """
        there = set(found)
        missing = [
            entry
            for place, entry in self._entries[kind].items()
            if namespace in ("", place[0]) and entry.uid not in there and entry.version <= as_of
        ]
        for entry in missing:
            self.remove(orjson.loads(entry.raw))

    def _keep(self, kind: str, place: tuple[str, str], thing: Json) -> None:
        state = sys.intern(STATES[kind](thing)) if kind in STATES else ""
        # A copy, because orjson's own buffer was larger, and what it gives back of that is a hole in the heap.
        raw = bytes(memoryview(orjson.dumps(trimmed(thing))))
        entry = _Entry(raw, version(thing), uid(thing), owner_key(thing), state)
        self._entries[kind][place] = entry
        if entry.owner:
            self._children[kind, entry.owner].add(place[1])
        if state:
            self._states[kind][state] += 1

    def _drop(self, kind: str, place: tuple[str, str], entry: _Entry) -> None:
        del self._entries[kind][place]
        if entry.owner:
            siblings = self._children[kind, entry.owner]
            siblings.discard(place[1])
            if not siblings:
                del self._children[kind, entry.owner]
        if entry.state:
            self._states[kind][entry.state] -= 1

    def _bury(self, gone: str) -> None:
        self._gone[gone] = None
        if len(self._gone) > REMEMBERED:
            self._gone.popitem(last=False)
        self._warnings.pop(gone, None)

    def _put_warning(self, event: Json) -> None:
        about = event["involvedObject"]["uid"]
        told = _Warning(version(event), uid(event), _time(event), f"{event.get('reason')}: {event.get('message')}")
        before = self._warnings.get(about)
        if about in self._gone or (before and (before.time, before.version) >= (told.time, told.version)):
            return
        self._warnings[about] = told
        self._warnings.move_to_end(about)
        if len(self._warnings) > WARNINGS:
            self._warnings.popitem(last=False)
        self._tell_about(event)

    def _remove_warning(self, event: Json) -> None:
        about = event["involvedObject"]["uid"]
        if (known := self._warnings.get(about)) and known.event_uid == uid(event):
            del self._warnings[about]

    def _tell_about(self, event: Json) -> None:
        """A warning is news of what it is about."""
        about = event["involvedObject"]
        thing = self.get(about.get("kind", ""), about.get("namespace", ""), about.get("name", ""))
        if thing and uid(thing) == about.get("uid"):
            self._tell(thing)

    def _tell(self, thing: Json) -> None:
        about = owner_key(thing) or key_of(thing)
        if (about.namespace, about.name) in self._entries[about.kind]:
            self._heard[about] = time.monotonic()
        else:
            self._heard.pop(about, None)
        self._changed(thing)


def owner_key(child: Json) -> Key | None:
    """The one of ours that a child belongs to, by its labels; of a ModelServer, the FineTuneJob that it follows."""
    if child["kind"] == "ModelServer":
        followed = child.get("spec", {}).get("model", {}).get("fineTuneJobRef", {}).get("name")
        return Key("FineTuneJob", namespace(child), followed) if followed else None
    for key, kind in OWNERS:
        if owner := label(child, key):
            return Key(kind, namespace(child), owner)
    return None


def trimmed(thing: Json) -> Json:
    """Without what no plan reads, and of what carries no label of ours only that it is there, and whose it is."""
    metadata: dict[str, Any] = {key: value for key, value in thing["metadata"].items() if key != "managedFields"}
    if thing["kind"] == "Service" and owner_key(thing) is None:
        kept = ("name", "namespace", "uid", "resourceVersion", "ownerReferences")
        return {"kind": "Service", "metadata": {key: metadata[key] for key in kept if key in metadata}}
    if LAST_APPLIED in metadata.get("annotations", {}):
        metadata["annotations"] = {key: each for key, each in metadata["annotations"].items() if key != LAST_APPLIED}
    return thing | {"metadata": metadata}


def _time(event: Json) -> str:
    """When it was last seen; the newer API has a field of its own for that."""
    series = event.get("series") or {}
    return str(series.get("lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime") or "")
