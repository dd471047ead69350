"""A kind declares itself here: what it owns, watches and indexes, and how it is observed and planned.

The declarations are values, in the manner of controller-runtime's For().Owns().Watches().
"""

from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime
from typing import Any, Generic, NamedTuple, Protocol, Self, TypeVar

from tuneyard_operator.machinery.cache import Reader
from tuneyard_operator.machinery.http import JsonReader
from tuneyard_operator.machinery.objects import Json, Key
from tuneyard_operator.machinery.plan import Plan, Rejection
from tuneyard_operator.machinery.resources import Resource


class World(Protocol):
    """What was observed: a NamedTuple with a field `rejection`."""

    def _replace(self, *, rejection: Rejection) -> Self: ...


W = TypeVar("W", bound=World)
S = TypeVar("S")


class Context(NamedTuple):
    """What an observation may ask, beside the object itself."""

    cache: Reader
    http: JsonReader
    now: datetime
    since_write: float  # seconds since this process wrote the object's status, or first saw the object


class Owns(NamedTuple):
    """Children: objects that carry the controller's `owner_label`, with the owner's name as its value."""

    resource: Resource
    verbs: tuple[str, ...] = ()  # what plans do with them, beside list and watch
    labels: str = ""  # label selector of the watch
    warnings: bool = False  # whether warning events about them are kept
    cached: bool = True  # False: they are written, but never read, and so not watched
    trim: Callable[[Json], Json] | None = None  # what the cache keeps of an object; None: all of it


class Watches(NamedTuple):
    """Other objects: a change of one enqueues the keys that `enqueue` returns."""

    resource: Resource
    enqueue: Callable[[Json, Reader], Iterable[Key]]
    labels: str = ""  # label selector of the watch
    trim: Callable[[Json], Json] | None = None  # what the cache keeps of an object; None: all of it


class Index(NamedTuple):
    """Objects of a kind are found by keys, of objects that they refer to or of what they have in common.

    `cache.children(kind, key)` has them, in whatever namespaces they are.
    """

    resource: Resource
    keys: Callable[[Json], Iterable[Key]]


class StateGauge(NamedTuple):
    """A gauge in /metrics that counts the objects of a kind by their state."""

    name: str
    help: str
    label: str
    state: Callable[[Json], str]


class Controller(NamedTuple, Generic[W, S]):
    """One kind: how its objects are observed, and what is planned from that.

    `plan` gets the process's settings. `measure` is called after each write with the status before and after it.
    `defect` is what a status says where `observe` or `plan` raised an error: nobody has to read the log to see it.
    """

    kind: Resource
    observe: Callable[[Json, Context], Awaitable[W]]
    plan: Callable[[W, S, datetime], Plan]
    owner_label: str = ""  # on every child
    owns: tuple[Owns, ...] = ()
    watches: tuple[Watches, ...] = ()
    indexes: tuple[Index, ...] = ()
    state: StateGauge | None = None
    measure: Callable[[Json, Json], None] = lambda before, after: None
    defect: Callable[[Json, Exception, datetime], Json] = lambda obj, error, now: obj.get("status", {})
    verbs: tuple[str, ...] = ()  # what plans do with objects of the kind itself, beside list and watch


Controllers = Iterable[Controller[Any, Any]]
