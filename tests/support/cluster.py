"""A cluster in memory: an API server, the operator's cache of it, and the operator's controllers.

Tests edit objects in place. The Job and Deployment controllers, the garbage collector (support/controllers.py) and the
kubelet (support/kubelet.py) do one step whenever a test calls them.
"""

from collections.abc import Awaitable
from copy import deepcopy
from datetime import timedelta
from itertools import count
from typing import Any, Final, TypeVar

import orjson

from support.builders import NAMESPACE, NOW, SETTINGS, warning
from support.controllers import DeploymentController, GarbageCollector, JobController
from support.declared import KINDS, RESOURCES
from support.kubelet import Kubelet
from tuneyard_operator.machinery.cache import Cache
from tuneyard_operator.machinery.conditions import timestamp
from tuneyard_operator.machinery.controller import Context, Controller
from tuneyard_operator.machinery.declared import enqueue_requests
from tuneyard_operator.machinery.objects import Json, Key, key_of, owned_by, uid, version
from tuneyard_operator.machinery.plan import Plan, Rejection
from tuneyard_operator.main import CONTROLLERS

DELIVERED: Final = (*KINDS, "Event")

T = TypeVar("T")


class SimulatedCluster:
    """Objects of all kinds in one namespace. The operator reconciles one of them, the `subject`.

    `own_writes_enqueue`: as in the operator, its own writes enqueue a reconcile. A plan that must not rely on that is
    tested without.
    """

    def __init__(self, subject: Json, *, own_writes_enqueue: bool = True) -> None:
        self.now = NOW
        self.settings = SETTINGS
        self.objects: dict[Key, Json] = {}
        self.progress: dict[str, Json] = {}  # what pods answer at /progress, by their IP
        self.events: list[str] = []  # of the operator, as "reason: message"
        self.rejection: Rejection | None = None  # the API server rejects what the operator plans
        self.queue: set[Key] = set()  # keys that the operator has to reconcile
        self.cache = Cache(KINDS, self._enqueue, clock=lambda: self.now.timestamp())
        self.job_controller = JobController(self)
        self.deployment_controller = DeploymentController(self)
        self.garbage_collector = GarbageCollector(self)
        self.kubelet = Kubelet(self)
        self._own_writes_enqueue = own_writes_enqueue
        self._numbers = count(1)
        self._stored: dict[str, bytes] = {}  # each object as it was numbered last, by uid
        self._delivered: dict[str, Json] = {}  # the objects that the operator's watches have delivered, by uid
        self._written_at = NOW  # the status of the subject
        self.key = key_of(self.create(subject))

    # The API server.

    def of_kind(self, kind: str) -> list[Json]:
        """In the order of their creation."""
        return [obj for key, obj in self.objects.items() if key.kind == kind]

    def get(self, kind: str, called: str) -> Json | None:
        return self.objects.get(Key(kind, NAMESPACE, called))

    def pods_of(self, owner: Json) -> list[Json]:
        return [pod for pod in self.of_kind("Pod") if owned_by(pod, uid(owner))]

    def number(self) -> int:
        return next(self._numbers)

    def create(self, obj: Json) -> Json:
        assert key_of(obj) not in self.objects, f"{key_of(obj)} exists"
        created = self.objects[key_of(obj)] = deepcopy(obj)
        metadata = {"uid": f"uid-{self.number()}", "generation": 1, "creationTimestamp": timestamp(self.now)}
        created["metadata"] |= metadata
        if "spec" in created:
            created.setdefault("status", {})
        return self.update(created)

    def apply(self, obj: Json) -> Json:
        """Server-side apply: the fields of `obj` win, and other fields stay."""
        existing = self.objects.get(key_of(obj))
        if existing is None:
            return self.create(obj)
        metadata = existing["metadata"] | deepcopy(obj["metadata"])
        existing.update(deepcopy(obj) | {"metadata": metadata})
        return self.update(existing)

    def update(self, obj: Json) -> Json:
        """Stores an object that was edited in place. A change gets a resourceVersion, one of the spec a generation."""
        before = self._stored.get(uid(obj))
        if before != orjson.dumps(obj):
            if before and orjson.loads(before).get("spec") != obj.get("spec"):
                obj["metadata"]["generation"] += 1
            obj["metadata"]["resourceVersion"] = str(self.number())
            self._stored[uid(obj)] = orjson.dumps(obj)
        return obj

    def delete(self, obj: Json) -> None:
        """A Job or Deployment stays until the garbage collector finishes the deletion, a pod until it has ended."""
        if RESOURCES[obj["kind"]].propagation == "Background" and obj["kind"] != "Pod":
            self.remove(obj)
            self.garbage_collector.delete_dependents(obj)
            return
        for item in (obj, *self.pods_of(obj)):
            item["metadata"].setdefault("deletionTimestamp", timestamp(self.now))

    def remove(self, *objects: Json) -> None:
        """The objects are gone, and what they own stays."""
        for obj in objects:
            del self.objects[key_of(obj)]

    def warn(self, about: Json, reason: str, message: str) -> None:
        """A controller emits a warning event."""
        self.create(warning(about, reason, message))

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def wait_idle(self, seconds: float) -> None:
        """Time passes until the operator's last event about the subject or its children is so long ago."""
        self.sync()
        self.wait(seconds - self.cache.seconds_since_last_event(self.key))

    # The operator.

    @property
    def _controller(self) -> Controller[Any, Any]:
        return next(controller for controller in CONTROLLERS if controller.kind.kind == self.key.kind)

    @property
    def cached(self) -> Json:
        """The subject as the operator has cached it."""
        obj = self.cache.get(*self.key)
        assert obj is not None
        return obj

    def sync(self, *kinds: str) -> None:
        """The watches of these kinds, or of all, deliver what has changed."""
        kinds = kinds or DELIVERED
        living = {uid(obj) for obj in self.objects.values()}
        for gone in [item for item in self._delivered.values() if item["kind"] in kinds and uid(item) not in living]:
            del self._delivered[uid(gone)]
            self.cache.remove(gone)
        for key, obj in self.objects.items():
            if key.kind in kinds:
                self._put(self.update(obj))

    def is_observed(self, *kinds: str) -> bool:
        """Whether the watches of these kinds, or of all, have delivered everything."""
        kinds = kinds or DELIVERED
        stored = {uid(obj): version(self.update(obj)) for key, obj in self.objects.items() if key.kind in kinds}
        return stored == {uid(item): version(item) for item in self._delivered.values() if item["kind"] in kinds}

    def is_enqueued(self) -> bool:
        """Whether the operator reconciles, at once or when its watches have delivered everything."""
        return self.key in self.queue or not self.is_observed()

    def is_due(self, requeue_after: float | None) -> bool:
        """Whether the operator reconciles after an event or, where there is none, at the time that it asked for."""
        self.sync()
        if self.key in self.queue:
            return True
        self.wait(requeue_after or 0)
        return requeue_after is not None

    def observe(self) -> Any:
        """The world that a plan is made from, by the operator's cache."""
        since_write = (self.now - self._written_at).total_seconds()
        world: Any = _result(self._controller.observe(self.cached, Context(self.cache, self, self.now, since_write)))
        return world._replace(rejection=self.rejection)

    def plan(self) -> Plan:
        return self._controller.plan(self.observe(), self.settings, self.now)

    def plan_after(self, status: Json) -> Plan:
        """The plan of an operator that has written the status, and was killed before it did anything else."""
        world = self.observe()
        written = self.cached | {"status": orjson.loads(orjson.dumps(status))}
        (subject, *_) = world._fields
        return self._controller.plan(world._replace(**{subject: written}), self.settings, self.now)

    def dry_run(self) -> Plan:
        """What a reconcile would do now."""
        self.sync()
        return self.plan()

    def reconcile(self) -> Plan:
        """Observes, plans, acts, and writes the status."""
        self.sync()
        self.queue.discard(self.key)
        step = self.plan()
        self.act(step)
        self.write_status(step)
        return step

    def act(self, step: Plan) -> None:
        """Deletes, applies and creates what the plan asks for, as the reconciler does, and emits its events."""
        self.events += [f"{event.reason}: {event.message}" for event in step.events]
        queued, was_observed = set(self.queue), self.is_observed()
        for item in step.delete:
            self._delete(item)
        for item in step.apply:
            self._put(self.apply(item))
        for item in step.create:
            if key_of(item) not in self.objects:
                self._put(self.create(item))
        if was_observed and not self._own_writes_enqueue:
            self.queue = queued

    def write_status(self, step: Plan) -> bool:
        """Writes the status, where it has changed; False where it was planned from an older version of the object."""
        obj = self.objects.get(self.key)
        if obj is None or step.status == self.cached.get("status", {}):
            return True
        if version(self.cached) != version(self.update(obj)):
            return False
        queued = set(self.queue)
        obj["status"] = orjson.loads(orjson.dumps(step.status))
        self._written_at = self.now
        self._put(self.update(obj))
        if not self._own_writes_enqueue:
            self.queue = queued
        return True

    async def get_json(self, url: str) -> Json | None:
        """The answer of a pod's HTTP server."""
        return next((answer for address, answer in self.progress.items() if f"//{address}:" in url), None)

    def _delete(self, cached: Json) -> None:
        obj = self.objects.get(key_of(cached))
        if obj is None or uid(obj) != uid(cached):
            self._delivered.pop(uid(cached), None)
            self.cache.remove(cached)
            return
        self.delete(obj)
        if key_of(obj) in self.objects:
            self._put(self.update(obj))

    def _put(self, obj: Json) -> None:
        """Into the operator's cache: what its watches deliver, and what the API server answers to its own writes."""
        self.cache.put(obj)
        if obj["kind"] in DELIVERED:
            self._delivered[uid(obj)] = {"kind": obj["kind"], "metadata": dict(obj["metadata"])}

    def _enqueue(self, obj: Json) -> None:
        self.queue |= set(enqueue_requests(obj, KINDS, self.cache))


def _result(observation: Awaitable[T]) -> T:
    """The result of an observation, which has nothing to wait for."""
    try:
        next(observation.__await__())
    except StopIteration as done:
        result: T = done.value
        return result
    raise AssertionError("an observation waits although nothing in a simulated cluster takes time")
