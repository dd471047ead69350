"""The cache and what fills it: newest wins, what is gone stays gone, and nobody changes what others see."""

import sys
from typing import Any

import pytest
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest

from support.declared import KINDS
from tuneyard_api.names import MANAGED_BY
from tuneyard_operator.finetunejob.metrics import measure
from tuneyard_operator.machinery import cache as module
from tuneyard_operator.machinery.cache import LAST_APPLIED, Cache
from tuneyard_operator.machinery.declared import enqueue_requests
from tuneyard_operator.machinery.errors import ApiError
from tuneyard_operator.machinery.informers import handle_event, resume_from
from tuneyard_operator.machinery.metrics import Exporter
from tuneyard_operator.machinery.objects import Json, Key
from tuneyard_operator.main import CONTROLLERS

JOB = Key("FineTuneJob", "team", "x")
SERVER = Key("ModelServer", "team", "s")


def thing(kind: str, name: str, version: int, uid: str = "", **labels: str) -> Json:
    tuneyards = {f"tuneyard.dev/{key}": value for key, value in labels.items()} | (MANAGED_BY if labels else {})
    names = {"name": name, "namespace": "team", "uid": uid or f"uid-{name}"}
    return {"kind": kind, "metadata": {**names, "resourceVersion": str(version), "labels": tuneyards}}


def job(version: int, phase: str = "", uid: str = "") -> Json:
    return thing("FineTuneJob", "x", version, uid) | ({"status": {"phase": phase}} if phase else {})


def server(version: int, follows: str = "", available: bool = False, uid: str = "") -> Json:
    model: Json = {"fineTuneJobRef": {"name": follows}} if follows else {"uri": "s3://a"}
    conditions = [{"type": "Available", "status": str(available)}]
    return thing("ModelServer", "s", version, uid) | {"spec": {"model": model}, "status": {"conditions": conditions}}


def warning(version: int, time: str, text: str, about: str = "uid-j", kind: str = "Job", name: str = "j") -> Json:
    involved = {"kind": kind, "namespace": "team", "name": name, "uid": about}
    event = {"involvedObject": involved, "reason": "FailedCreate", "message": text, "lastTimestamp": time}
    return thing("Event", f"e{version}", version) | event


def version_of(cache: Cache, key: Key = JOB) -> str | None:
    found = cache.get(*key)
    return found["metadata"]["resourceVersion"] if found else None


@pytest.mark.parametrize(
    ("told", "left"),
    [
        (["put 5", "put 7"], "7"),
        (["put 7", "put 5"], "7"),
        (["put 9", "put 10"], "10"),  # numbers, not words
        (["put 5", "gone 6"], None),
        (["put 5", "gone 6", "put 5"], None),  # the late answer of a write
        (["put 5", "gone 6", "put 7"], None),  # even one that seems newer: that uid has ended
        (["gone 6", "put 5"], None),
        (["put 5", "gone 6", "new 8"], "8"),  # a namesake
        (["put 5", "new 8", "gone 6"], "8"),  # news of the old one come late
        (["new 8", "put 5"], "8"),
    ],
)
def test_the_newest_wins_and_what_is_gone_stays_gone(told: list[str], left: str | None) -> None:
    cache = Cache(KINDS)
    for each in told:
        what, version = each.split()
        one = job(int(version), uid="uid-namesake" if what == "new" else "")
        (cache.remove if what == "gone" else cache.put)(one)
    assert version_of(cache) == left


def test_only_news_are_told() -> None:
    told: list[str] = []
    cache = Cache(KINDS, lambda thing: told.append(thing["metadata"]["resourceVersion"]))
    cache.put(job(5))
    cache.put(job(5))
    cache.put(job(4))
    cache.remove(job(6))
    cache.remove(job(6))
    cache.put(job(5))
    assert told == ["5", "5"], "put, then gone"


def test_nobody_changes_what_others_see() -> None:
    cache, given = Cache(KINDS), job(5, "Training")
    cache.put(given)
    given["status"]["phase"] = "changed by who gave it"
    read = cache.get(*JOB) or {}
    read["status"]["phase"] = "changed by a reader"
    assert (cache.get(*JOB) or {})["status"]["phase"] == "Training"


def test_what_no_plan_reads_is_not_kept() -> None:
    one = job(5)
    one["metadata"] |= {"managedFields": [{}], "annotations": {LAST_APPLIED: "{}", "kept": "1"}}
    cache = Cache(KINDS)
    cache.put(one)
    assert (cache.get(*JOB) or {})["metadata"]["annotations"] == {"kept": "1"}
    assert "managedFields" not in (cache.get(*JOB) or {})["metadata"]
    assert "managedFields" in one["metadata"], "the giver keeps what it gave"


def test_of_a_strangers_service_only_its_being_there_is_kept() -> None:
    cache = Cache(KINDS)
    ours, theirs = thing("Service", "ours", 5, modelserver="s"), thing("Service", "theirs", 6)
    for each in (ours, theirs):
        cache.put(each | {"spec": {"ports": []}})
    assert "spec" in (cache.get("Service", "team", "ours") or {})
    assert set(cache.get("Service", "team", "theirs") or {}) == {"kind", "metadata"}


def test_a_kind_that_nobody_watches_is_not_kept() -> None:
    """Nobody would ever tell that it is gone."""
    cache = Cache(KINDS)
    cache.put(thing("ConfigMap", "c", 5))
    assert cache.get("ConfigMap", "team", "c") is None


def test_children_are_found_by_their_owner() -> None:
    cache = Cache(KINDS)
    cache.put(thing("Job", "b", 1, finetunejob="x"))
    cache.put(thing("Job", "a", 2, finetunejob="x"))
    cache.put(thing("Job", "other", 3, finetunejob="y"))
    cache.put(thing("Pod", "p", 4, modelserver="s"))

    def found(kind: str, owner: Key) -> list[str]:
        return [each["metadata"]["name"] for each in cache.children(kind, owner)]

    assert found("Job", JOB) == ["a", "b"]
    assert found("Pod", SERVER) == ["p"]
    assert found("Pod", JOB) == found("Job", JOB._replace(namespace="elsewhere")) == []
    cache.put(thing("Job", "a", 5, finetunejob="y"))
    cache.remove(thing("Job", "b", 6))
    assert found("Job", JOB) == []
    assert found("Job", Key("FineTuneJob", "team", "y")) == ["a", "other"]


@pytest.mark.parametrize(
    ("events", "said"),
    [
        ([(1, "10:00", "old"), (2, "11:00", "new")], "FailedCreate: new"),
        ([(2, "11:00", "new"), (1, "10:00", "old")], "FailedCreate: new"),
        ([(1, "10:00", "once"), (3, "12:00", "once more")], "FailedCreate: once more"),
    ],
)
def test_only_the_newest_warning_counts(events: list[tuple[int, str, str]], said: str) -> None:
    cache = Cache(KINDS)
    for each in events:
        cache.put(warning(*each))
    assert cache.warning("uid-j") == said
    assert cache.warning("uid-other") == ""


def test_a_warning_ends_with_its_event_and_with_what_it_is_about() -> None:
    cache = Cache(KINDS)
    cache.put(warning(1, "10:00", "first"))
    cache.put(warning(2, "11:00", "second"))
    cache.remove(warning(1, "10:00", "first"))
    assert cache.warning("uid-j") == "FailedCreate: second"
    cache.remove(warning(2, "11:00", "second"))
    assert cache.warning("uid-j") == ""
    cache.put(thing("Job", "j", 3, finetunejob="x"))
    cache.put(warning(4, "12:00", "third"))
    cache.remove(thing("Job", "j", 5))
    cache.put(warning(6, "13:00", "late"))
    assert cache.warning("uid-j") == ""


def test_memories_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WARNINGS_LIMIT", 2)
    monkeypatch.setattr(module, "DELETED_LIMIT", 2)
    cache = Cache(KINDS)
    for each in range(1, 4):
        cache.put(warning(each, "10:00", f"w{each}", about=f"uid-{each}"))
        cache.remove(job(each, uid=f"gone-{each}"))
    assert [cache.warning(f"uid-{each}") for each in (1, 2, 3)] == ["", "FailedCreate: w2", "FailedCreate: w3"]
    cache.put(job(9, uid="gone-3"))
    assert version_of(cache) is None
    cache.put(job(9, uid="gone-1"))
    assert version_of(cache) == "9", "long forgotten"


def test_a_list_tells_what_is_gone_but_not_of_what_is_newer_than_it() -> None:
    cache = Cache(KINDS)
    elsewhere = thing("Pod", "far", 3)
    elsewhere["metadata"]["namespace"] = "elsewhere"
    for each in (thing("Pod", "listed", 1), thing("Pod", "gone", 2), thing("Pod", "created-since", 12), elsewhere):
        cache.put(each)
    cache.keep_only("Pod", "team", ["uid-listed"], as_of=10)
    assert [bool(cache.get("Pod", "team", each)) for each in ("listed", "gone", "created-since")] == [True, False, True]
    assert cache.get("Pod", "elsewhere", "far")
    cache.keep_only("Pod", "", ["uid-listed"], as_of=20)
    assert not cache.get("Pod", "elsewhere", "far")


WOKEN: list[tuple[Json, list[Key]]] = [
    (job(5), [JOB, SERVER]),
    (server(5, "x"), [SERVER]),
    (thing("Pod", "p", 5, finetunejob="x"), [JOB]),
    (thing("Deployment", "d", 5, modelserver="s"), [SERVER]),
    (thing("Pod", "p", 5), []),
    (thing("Service", "s", 5), [SERVER]),  # a stranger's, whose name a ModelServer waits for
    (thing("Service", "s-metrics", 5, modelserver="s"), [SERVER]),
]


@pytest.mark.parametrize(("changed", "keys"), WOKEN)
def test_who_is_woken(changed: Json, keys: list[Key]) -> None:
    cache = Cache(KINDS)
    cache.put(server(1, "x"))
    assert enqueue_requests(changed, KINDS, cache) == keys


def test_a_server_that_follows_another_job_is_woken_by_that_one() -> None:
    cache = Cache(KINDS)
    cache.put(server(1, "x"))
    cache.put(server(2, "y"))
    assert enqueue_requests(job(5), KINDS, cache) == [JOB]
    cache.put(server(3, "x"))
    cache.remove(server(4, "x"))
    assert enqueue_requests(job(5), KINDS, cache) == [JOB]


def test_a_warning_is_news_of_what_it_is_about() -> None:
    told: list[str] = []
    cache = Cache(KINDS, lambda thing: told.append(thing["metadata"]["name"]))
    cache.put(warning(1, "10:00", "a stranger's"))
    cache.put(thing("Job", "j", 2, finetunejob="x"))
    cache.put(warning(3, "11:00", "ours"))
    cache.put(warning(4, "11:00", "about a namesake", about="uid-other"))
    assert told == ["j", "j"]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Its only number is the time; who adds to it lets time pass."""
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(
    ("news", "silence"),
    [
        ([], 100.0),
        ([thing("Pod", "p", 6, finetunejob="x")], 0.0),
        ([job(6)], 0.0),
        ([job(1), thing("Job", "j", 2, finetunejob="x")], 100.0),  # a list says again what is known
        ([warning(6, "11:00", "ours")], 0.0),
        ([warning(6, "11:00", "ours", about="uid-other")], 100.0),
        ([thing("Pod", "p", 6, finetunejob="y")], 100.0),
    ],
)
def test_silence_lasts_until_something_new_is_last_events(news: list[Json], silence: float, clock: list[float]) -> None:
    cache = Cache(KINDS)
    cache.put(job(1))
    cache.put(thing("Job", "j", 2, finetunejob="x"))
    clock[0] += 100.0
    for each in news:
        cache.put(each)
    assert cache.seconds_since_last_event(JOB) == silence


def test_what_goes_is_news_and_leaves_nothing_behind(clock: list[float]) -> None:
    cache = Cache(KINDS)
    cache.put(job(1))
    cache.put(thing("Pod", "p", 2, finetunejob="x"))
    clock[0] += 100.0
    cache.remove(thing("Pod", "p", 3, finetunejob="x"))
    assert cache.seconds_since_last_event(JOB) == 0.0
    clock[0] += 100.0
    cache.remove(job(4))
    assert cache.seconds_since_last_event(JOB) == 0.0
    assert not cache._last_events


@pytest.mark.parametrize(
    ("kind", "there", "version"),
    [("ADDED", True, 7), ("MODIFIED", True, 7), ("DELETED", False, 7), ("BOOKMARK", True, 7)],
)
def test_what_a_watch_says(kind: str, there: bool, version: int) -> None:
    cache = Cache(KINDS)
    cache.put(job(5))
    bookmark: Json = {"metadata": {"resourceVersion": "7"}}
    assert (
        handle_event({"type": kind, "object": bookmark if kind == "BOOKMARK" else job(7)}, "FineTuneJob", cache)
        == version
    )
    assert bool(version_of(cache)) is there


@pytest.mark.parametrize(("status", "since"), [(410, 0), (0, 42), (500, 42), (429, 42), (403, 42)])
def test_only_a_forgotten_past_is_listed_again(status: int, since: int) -> None:
    assert resume_from(ApiError(status, "", ""), 42) == since


def test_states_are_counted_as_they_change() -> None:
    cache = Cache(KINDS)
    registry = CollectorRegistry()
    registry.register(Exporter("tuneyard_", CONTROLLERS, lambda: {"FineTuneJob": 3}, cache.states))
    cache.put(job(1))
    cache.put(job(2, "Training"))
    cache.put(server(1, available=False))
    cache.put(server(2, available=True))
    text = generate_latest(registry).decode()
    assert 'tuneyard_finetunejobs{phase="Training"} 1.0' in text
    assert 'tuneyard_finetunejobs{phase="Pending"} 0.0' in text
    assert 'tuneyard_modelservers{available="true"} 1.0' in text
    assert 'tuneyard_workqueue_depth{kind="FineTuneJob"} 3.0' in text
    cache.remove(job(3))
    assert 'tuneyard_finetunejobs{phase="Training"} 0.0' in generate_latest(registry).decode()


def stage(state: str, **times: Any) -> Json:
    return {"stages": [{"name": "train", "state": state, **times}]}


def test_a_stages_duration_is_told_once() -> None:
    def total() -> float:
        return REGISTRY.get_sample_value("tuneyard_stage_duration_seconds_sum", {"stage": "train"}) or 0.0

    before = total()
    done = stage("Succeeded", startedAt="2030-01-01T00:00:00Z", finishedAt="2030-01-01T00:01:30Z")
    measure(stage("Running", startedAt="2030-01-01T00:00:00Z"), done)
    measure(done, done)
    measure({}, stage("Adopted"))
    assert total() == before + 90


def test_an_object_costs_little_more_than_its_json() -> None:
    """Dicts would take ten times as much; see docs/decisions/0012."""
    cache = Cache(KINDS)
    one = job(1, "Training") | {"spec": {"text": "x" * 2000}}
    cache.put(one)
    entry = cache._entries["FineTuneJob"]["team", "x"]
    assert sys.getsizeof(entry.raw) < 2400
