"""A third kind is a controller in a file of its own: the machinery serves it by its declaration alone."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import pytest

from tuneyard_operator.machinery.cache import Cache, Reader
from tuneyard_operator.machinery.controller import Context, Controller, Index, Owns, StateGauge, Watches
from tuneyard_operator.machinery.declared import cached_kinds, enqueue_requests, resources, sources
from tuneyard_operator.machinery.events import Event
from tuneyard_operator.machinery.http import HttpClient
from tuneyard_operator.machinery.identity import Identity
from tuneyard_operator.machinery.kube import Kube
from tuneyard_operator.machinery.metrics import Exporter
from tuneyard_operator.machinery.objects import Json, Key, key_of, name, namespace, owner_reference
from tuneyard_operator.machinery.plan import Plan, Rejection
from tuneyard_operator.machinery.rbac import rules
from tuneyard_operator.machinery.reconcile import Reconciler
from tuneyard_operator.machinery.resources import CONFIG_MAP, EVENT, JOB, SERVICE, Resource, Source
from tuneyard_operator.main import CONTROLLERS

NOW: Final = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
GARDEN: Final = Resource("example.dev/v1", "Garden", "gardens")
FINE_TUNE_JOB: Final = next(each.kind for each in CONTROLLERS if each.kind.kind == "FineTuneJob")
LABEL: Final = "example.dev/garden"


class World(NamedTuple):
    garden: Json
    jobs: list[Json]
    now: datetime
    rejection: Rejection | None = None


async def observe(garden: Json, context: Context) -> World:
    return World(garden, context.cache.children("FineTuneJob", key_of(garden)), context.now)


def plan(world: World, water: str, now: datetime) -> Plan:
    assert now == world.now, "observation and plan have the same time"
    metadata = {"name": "c", "namespace": namespace(world.garden), "ownerReferences": [owner_reference(world.garden)]}
    child = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"water": water}}
    rejected = world.rejection.message if world.rejection else ""
    status = {"jobs": [name(job) for job in world.jobs], "rejected": rejected}
    return Plan(status, apply=[child], events=[Event("Watered", "it grows")], requeue_after=7.0)


def planted(garden: Json) -> Iterable[Key]:
    """The FineTuneJobs that a garden refers to: any number."""
    return [Key("FineTuneJob", namespace(garden), each) for each in garden.get("spec", {}).get("follows", [])]


def gardens_of(job: Json, cluster: Reader) -> Iterable[Key]:
    return cluster.child_keys("Garden", key_of(job))


CONTROLLER: Final[Controller[World, str]] = Controller(
    kind=GARDEN,
    owner_label=LABEL,
    owns=(
        Owns(FINE_TUNE_JOB, verbs=("create",)),
        Owns(JOB, warnings=True, labels="app.kubernetes.io/managed-by=tuneyard"),
        Owns(CONFIG_MAP, verbs=("create", "patch"), cached=False),
    ),
    watches=(Watches(FINE_TUNE_JOB, gardens_of),),
    indexes=(Index(GARDEN, planted),),
    state=StateGauge("example_gardens", "Gardens by season", "season", lambda garden: garden["spec"]["season"]),
    observe=observe,
    plan=plan,
)
ALL: Final = (*CONTROLLERS, CONTROLLER)


def obj(resource: Resource, called: str, version: int = 1, spec: Json | None = None, **labels: str) -> Json:
    ids = {"name": called, "namespace": "team", "uid": f"uid-{called}", "resourceVersion": str(version)}
    head = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": {**ids, "labels": labels}}
    return head | {"spec": spec or {}}


def garden(called: str = "g", version: int = 1, follows: tuple[str, ...] = ()) -> Json:
    return obj(GARDEN, called, version, {"season": "spring", "follows": list(follows)})


def names(found: list[Json]) -> list[str]:
    return [name(each) for each in found]


GARDEN_KEY: Final = Key("Garden", "team", "g")
JOB_KEY: Final = Key("FineTuneJob", "team", "x")


class TestSeveralOwners:
    @pytest.fixture
    def cache(self) -> Cache:
        return Cache(cached_kinds(ALL))

    def test_child_is_found_by_each_owner(self, cache: Cache) -> None:
        both = {LABEL: "g", "tuneyard.dev/finetunejob": "x"}
        cache.put(obj(JOB, "j", 1, None, **both))
        assert names(cache.children("Job", GARDEN_KEY)) == names(cache.children("Job", JOB_KEY)) == ["j"]
        cache.put(obj(JOB, "j", 2, None, **{LABEL: "g"}))
        assert (names(cache.children("Job", GARDEN_KEY)), cache.children("Job", JOB_KEY)) == (["j"], [])
        cache.remove(obj(JOB, "j", 3))
        assert cache.children("Job", GARDEN_KEY) == []
        assert not cache._children, "nothing is left of it"

    def test_child_enqueues_each_owner(self, cache: Cache) -> None:
        both = {LABEL: "g", "tuneyard.dev/finetunejob": "x"}
        child = obj(JOB, "j", 1, None, **both)
        assert set(enqueue_requests(child, cached_kinds(ALL), cache)) == {GARDEN_KEY, JOB_KEY}

    def test_object_is_found_by_each_reference(self, cache: Cache) -> None:
        cache.put(garden(follows=("x", "y", "y")))
        keys = [JOB_KEY._replace(name=each) for each in "xyz"]
        assert [names(cache.children("Garden", key)) for key in keys] == [["g"], ["g"], []]
        cache.put(garden(version=2, follows=("z",)))
        assert [names(cache.children("Garden", key)) for key in keys] == [[], [], ["g"]]

    def test_change_enqueues_owner_self_and_followers(self, cache: Cache) -> None:
        cache.put(garden("owner"))
        cache.put(garden("follower", follows=("x",)))
        job = obj(FINE_TUNE_JOB, "x", 1, None, **{LABEL: "owner"})
        expected = [JOB_KEY, GARDEN_KEY._replace(name="owner"), GARDEN_KEY._replace(name="follower")]
        assert enqueue_requests(job, cached_kinds(ALL), cache) == expected
        assert enqueue_requests(garden(follows=("x",)), cached_kinds(ALL), cache) == [GARDEN_KEY]

    def test_change_is_an_event_of_owners_alone(self, cache: Cache) -> None:
        cache.put(obj(FINE_TUNE_JOB, "x", 1, None, **{LABEL: "g"}))
        cache.put(garden())
        events = cache._last_events
        events.clear()
        cache.put(obj(FINE_TUNE_JOB, "x", 2, None, **{LABEL: "g"}))
        assert set(events) == {JOB_KEY, GARDEN_KEY}
        events.clear()
        cache.put(garden(version=2, follows=("x",)))
        assert set(events) == {GARDEN_KEY}


class TestDeclared:
    def test_sources_are_one_for_each_kind_and_the_warnings(self) -> None:
        added = set(sources(ALL)) - set(sources(CONTROLLERS))
        assert added == {Source("Garden")}
        alone = sources([CONTROLLER])
        assert alone == (
            Source("Garden"),
            Source("FineTuneJob"),
            Source("Job", labels="app.kubernetes.io/managed-by=tuneyard"),
            Source("Event", fields="type=Warning,involvedObject.kind=Job"),
        )

    def test_watch_without_selector_wins(self) -> None:
        (services,) = [source for source in sources(CONTROLLERS) if source.kind == "Service"]
        assert services == Source("Service"), "the FineTuneJob's controller alone would have a selector"

    def test_resources_have_their_paths(self) -> None:
        found = resources(ALL)
        assert (found["Garden"].root, found["Garden"].group) == ("/apis/example.dev/v1", "example.dev")
        assert (found["ConfigMap"].root, found["ConfigMap"].group) == ("/api/v1", "")

    def test_rules_are_what_it_does_and_no_more(self) -> None:
        def rights(controllers: Any) -> set[tuple[str, str]]:
            return {(rule["resources"][0], verb) for rule in rules(controllers) for verb in rule["verbs"]}

        assert rights(ALL) - rights(CONTROLLERS) == {
            ("gardens", "list"),
            ("gardens", "watch"),
            ("gardens/status", "patch"),
            ("finetunejobs", "create"),
        }
        assert ("configmaps", "list") not in rights([CONTROLLER]), "it is not cached"

    def test_states_are_counted(self) -> None:
        cache = Cache(cached_kinds(ALL))
        cache.put(garden())
        families = {family.name: family for family in Exporter("", ALL, dict, cache.states).collect()}
        (sample,) = families["example_gardens"].samples
        assert (sample.labels, sample.value) == ({"season": "spring"}, 1.0)

    @pytest.mark.parametrize(
        ("declares", "wrong"),
        [
            (CONTROLLER._replace(owns=(Owns(JOB, labels="a=b"),)), "Job is watched with the selectors"),
            (CONTROLLER._replace(owns=(Owns(JOB._replace(plural="job")),)), "Job is declared as"),
            (
                CONTROLLER._replace(watches=(Watches(SERVICE, gardens_of, trim=lambda service: service),)),
                "Service is trimmed in two ways",
            ),
            (CONTROLLER._replace(owns=(Owns(JOB, trim=lambda job: job),)), "Job is trimmed in two ways"),
        ],
    )
    def test_contradictions_are_errors(self, declares: Controller[World, str], wrong: str) -> None:
        declared = (*CONTROLLERS, declares)
        with pytest.raises(ValueError, match=wrong):
            resources(declared), sources(declared), cached_kinds(declared)


class RecordingKube(Kube):
    """Answers every write with what was written, and keeps it."""

    def __init__(self) -> None:
        self.identity = Identity("gardener", "garden")
        self.written: list[Json] = []

    async def apply(self, obj: Json, *, subresource: str = "", force: bool = True) -> Json:
        self.written.append(obj)
        return obj

    async def create(self, obj: Json) -> Json | None:
        self.written.append(obj)
        return obj


async def test_reconcile_runs_its_plan() -> None:
    kube, cache = RecordingKube(), Cache(cached_kinds(ALL))
    cache.put(garden())
    cache.put(obj(FINE_TUNE_JOB, "x", 1, None, **{LABEL: "g"}))
    reconcile = Reconciler(kube, cache, ALL, "much", HttpClient(), clock=lambda: NOW)
    assert await reconcile(GARDEN_KEY) == 7.0
    child, event, status = kube.written
    assert child["data"] == {"water": "much"}, "the plan has the settings"
    (owner,) = child["metadata"]["ownerReferences"]
    assert (owner["apiVersion"], owner["kind"], owner["uid"]) == ("example.dev/v1", "Garden", "uid-g")
    assert (event["kind"], event["involvedObject"]["apiVersion"]) == (EVENT.kind, "example.dev/v1")
    assert event["source"] == {"component": "garden"}
    assert event["firstTimestamp"] == "2030-01-02T03:04:05Z"
    assert (status["apiVersion"], status["status"]) == ("example.dev/v1", {"jobs": ["x"], "rejected": ""})
