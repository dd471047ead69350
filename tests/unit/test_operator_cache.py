"""The cache: the newest version wins, deleted objects stay deleted, and readers get copies."""

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


def obj(kind: str, name: str, version: int, uid: str = "", **labels: str) -> Json:
    ours = {f"tuneyard.dev/{key}": value for key, value in labels.items()} | (MANAGED_BY if labels else {})
    names = {"name": name, "namespace": "team", "uid": uid or f"uid-{name}"}
    spec: Json = {"spec": {}} if kind == "Job" else {}
    return {"kind": kind, "metadata": {**names, "resourceVersion": str(version), "labels": ours}, **spec}


def job(version: int, phase: str = "", uid: str = "") -> Json:
    return obj("FineTuneJob", "x", version, uid) | ({"status": {"phase": phase}} if phase else {})


def server(version: int, follows: str = "", available: bool = False, uid: str = "") -> Json:
    model: Json = {"fineTuneJobRef": {"name": follows}} if follows else {"uri": "s3://a"}
    conditions = [{"type": "Available", "status": str(available)}]
    return obj("ModelServer", "s", version, uid) | {"spec": {"model": model}, "status": {"conditions": conditions}}


def warning(version: int, time: str, text: str, about: str = "uid-j", kind: str = "Job", name: str = "j") -> Json:
    involved = {"kind": kind, "namespace": "team", "name": name, "uid": about}
    event = {"involvedObject": involved, "reason": "FailedCreate", "message": text, "lastTimestamp": time}
    return obj("Event", f"e{version}", version) | event


def version_of(cache: Cache, key: Key = JOB) -> str | None:
    found = cache.get(*key)
    return found["metadata"]["resourceVersion"] if found else None


@pytest.mark.parametrize(
    ("changes", "left"),
    [
        (["put 5", "put 7"], "7"),
        (["put 7", "put 5"], "7"),
        (["put 9", "put 10"], "10"),  # numbers, not words
        (["put 5", "gone 6"], None),
        (["put 5", "gone 6", "put 5"], None),  # the late response to a write
        (["put 5", "gone 6", "put 7"], None),  # even a newer version: the uid was deleted
        (["gone 6", "put 5"], None),
        (["put 5", "gone 6", "new 8"], "8"),  # another object of that name
        (["put 5", "new 8", "gone 6"], "8"),  # the late deletion of the earlier object
        (["new 8", "put 5"], "8"),
    ],
)
def test_newest_version_wins_and_deleted_uids_stay_deleted(changes: list[str], left: str | None) -> None:
    cache = Cache(KINDS)
    for each in changes:
        what, version = each.split()
        one = job(int(version), uid="uid-namesake" if what == "new" else "")
        (cache.remove if what == "gone" else cache.put)(one)
    assert version_of(cache) == left


def test_on_change_is_called_once_per_version() -> None:
    changes_seen: list[str] = []
    cache = Cache(KINDS, lambda changed: changes_seen.append(changed["metadata"]["resourceVersion"]))
    cache.put(job(5))
    cache.put(job(5))
    cache.put(job(4))
    cache.remove(job(6))
    cache.remove(job(6))
    cache.put(job(5))
    assert changes_seen == ["5", "5"], "put, then removed"


def test_readers_and_writers_have_copies() -> None:
    cache, given = Cache(KINDS), job(5, "Training")
    cache.put(given)
    given["status"]["phase"] = "changed by the writer"
    read = cache.get(*JOB) or {}
    read["status"]["phase"] = "changed by a reader"
    assert (cache.get(*JOB) or {})["status"]["phase"] == "Training"


def test_managed_fields_and_last_applied_are_not_kept() -> None:
    one = job(5)
    one["metadata"] |= {"managedFields": [{}], "annotations": {LAST_APPLIED: "{}", "kept": "1"}}
    cache = Cache(KINDS)
    cache.put(one)
    assert (cache.get(*JOB) or {})["metadata"]["annotations"] == {"kept": "1"}
    assert "managedFields" not in (cache.get(*JOB) or {})["metadata"]
    assert "managedFields" in one["metadata"], "the argument is unchanged"


def test_unmanaged_service_is_trimmed() -> None:
    cache = Cache(KINDS)
    ours, theirs = obj("Service", "ours", 5, modelserver="s"), obj("Service", "theirs", 6)
    for each in (ours, theirs):
        cache.put(each | {"spec": {"ports": []}})
    assert "spec" in (cache.get("Service", "team", "ours") or {})
    assert set(cache.get("Service", "team", "theirs") or {}) == {"kind", "metadata"}


def test_the_template_of_a_job_of_ours_is_not_kept() -> None:
    cache = Cache(KINDS)
    ours, theirs = obj("Job", "ours", 5, finetunejob="x"), obj("Job", "theirs", 6)
    for each in (ours, theirs):
        cache.put(each | {"spec": {"completions": 2, "template": {}}})
    assert (cache.get("Job", "team", "ours") or {})["spec"] == {"completions": 2}
    assert (cache.get("Job", "team", "theirs") or {})["spec"] == {"completions": 2, "template": {}}


def test_kind_that_is_not_watched_is_not_kept() -> None:
    """Its deletion would never be reported."""
    cache = Cache(KINDS)
    cache.put(obj("ConfigMap", "c", 5))
    assert cache.get("ConfigMap", "team", "c") is None


def test_children_are_indexed_by_owner() -> None:
    cache = Cache(KINDS)
    cache.put(obj("Job", "b", 1, finetunejob="x"))
    cache.put(obj("Job", "a", 2, finetunejob="x"))
    cache.put(obj("Job", "other", 3, finetunejob="y"))
    cache.put(obj("Pod", "p", 4, modelserver="s"))

    def found(kind: str, owner: Key) -> list[str]:
        return [each["metadata"]["name"] for each in cache.children(kind, owner)]

    assert found("Job", JOB) == ["a", "b"]
    assert found("Pod", SERVER) == ["p"]
    assert found("Pod", JOB) == found("Job", JOB._replace(namespace="elsewhere")) == []
    cache.put(obj("Job", "a", 5, finetunejob="y"))
    cache.remove(obj("Job", "b", 6))
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
def test_newest_warning_wins(events: list[tuple[int, str, str]], said: str) -> None:
    cache = Cache(KINDS)
    for each in events:
        cache.put(warning(*each))
    assert cache.warning("uid-j") == said
    assert cache.warning("uid-other") == ""


def test_warning_is_removed_with_its_event_or_object() -> None:
    cache = Cache(KINDS)
    cache.put(warning(1, "10:00", "first"))
    cache.put(warning(2, "11:00", "second"))
    cache.remove(warning(1, "10:00", "first"))
    assert cache.warning("uid-j") == "FailedCreate: second"
    cache.remove(warning(2, "11:00", "second"))
    assert cache.warning("uid-j") == ""
    cache.put(obj("Job", "j", 3, finetunejob="x"))
    cache.put(warning(4, "12:00", "third"))
    cache.remove(obj("Job", "j", 5))
    cache.put(warning(6, "13:00", "late"))
    assert cache.warning("uid-j") == ""


def test_remembered_uids_and_warnings_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_list_removes_missing_older_objects() -> None:
    cache = Cache(KINDS)
    elsewhere = obj("Pod", "far", 3)
    elsewhere["metadata"]["namespace"] = "elsewhere"
    for each in (obj("Pod", "listed", 1), obj("Pod", "gone", 2), obj("Pod", "created-since", 12), elsewhere):
        cache.put(each)
    cache.keep_only("Pod", "team", ["uid-listed"], as_of=10)
    assert [bool(cache.get("Pod", "team", each)) for each in ("listed", "gone", "created-since")] == [True, False, True]
    assert cache.get("Pod", "elsewhere", "far")
    cache.keep_only("Pod", "", ["uid-listed"], as_of=20)
    assert not cache.get("Pod", "elsewhere", "far")


ENQUEUED: list[tuple[Json, list[Key]]] = [
    (job(5), [JOB, SERVER]),
    (server(5, "x"), [SERVER]),
    (obj("Pod", "p", 5, finetunejob="x"), [JOB]),
    (obj("Deployment", "d", 5, modelserver="s"), [SERVER]),
    (obj("Pod", "p", 5), []),
    (obj("Service", "s", 5), [SERVER]),  # unmanaged, with a name that a ModelServer waits for
    (obj("Service", "s-metrics", 5, modelserver="s"), [SERVER]),
]


@pytest.mark.parametrize(("changed", "keys"), ENQUEUED)
def test_enqueued_keys(changed: Json, keys: list[Key]) -> None:
    cache = Cache(KINDS)
    cache.put(server(1, "x"))
    assert enqueue_requests(changed, KINDS, cache) == keys


def test_followed_job_enqueues_its_server() -> None:
    cache = Cache(KINDS)
    cache.put(server(1, "x"))
    cache.put(server(2, "y"))
    assert enqueue_requests(job(5), KINDS, cache) == [JOB]
    cache.put(server(3, "x"))
    cache.remove(server(4, "x"))
    assert enqueue_requests(job(5), KINDS, cache) == [JOB]


def test_warning_enqueues_its_object() -> None:
    changes_seen: list[str] = []
    cache = Cache(KINDS, lambda changed: changes_seen.append(changed["metadata"]["name"]))
    cache.put(warning(1, "10:00", "about an unknown object"))
    cache.put(obj("Job", "j", 2, finetunejob="x"))
    cache.put(warning(3, "11:00", "ours"))
    cache.put(warning(4, "11:00", "about another uid", about="uid-other"))
    assert changes_seen == ["j", "j"]


@pytest.fixture
def clock() -> list[float]:
    """The clock of a cache; its only number is the time."""
    return [1000.0]


@pytest.mark.parametrize(
    ("changes", "seconds"),
    [
        ([], 100.0),
        ([obj("Pod", "p", 6, finetunejob="x")], 0.0),
        ([job(6)], 0.0),
        ([job(1), obj("Job", "j", 2, finetunejob="x")], 100.0),  # a list repeats known versions
        ([warning(6, "11:00", "ours")], 0.0),
        ([warning(6, "11:00", "ours", about="uid-other")], 100.0),
        ([obj("Pod", "p", 6, finetunejob="y")], 100.0),
    ],
)
def test_seconds_since_last_event(changes: list[Json], seconds: float, clock: list[float]) -> None:
    cache = Cache(KINDS, clock=lambda: clock[0])
    cache.put(job(1))
    cache.put(obj("Job", "j", 2, finetunejob="x"))
    clock[0] += 100.0
    for each in changes:
        cache.put(each)
    assert cache.seconds_since_last_event(JOB) == seconds


def test_deletion_is_an_event(clock: list[float]) -> None:
    cache = Cache(KINDS, clock=lambda: clock[0])
    cache.put(job(1))
    cache.put(obj("Pod", "p", 2, finetunejob="x"))
    clock[0] += 100.0
    cache.remove(obj("Pod", "p", 3, finetunejob="x"))
    assert cache.seconds_since_last_event(JOB) == 0.0
    clock[0] += 100.0
    cache.remove(job(4))
    assert cache.seconds_since_last_event(JOB) == 0.0
    assert not cache._last_events


@pytest.mark.parametrize(
    ("kind", "there", "version"),
    [("ADDED", True, 7), ("MODIFIED", True, 7), ("DELETED", False, 7), ("BOOKMARK", True, 7)],
)
def test_watch_events(kind: str, there: bool, version: int) -> None:
    cache = Cache(KINDS)
    cache.put(job(5))
    bookmark: Json = {"metadata": {"resourceVersion": "7"}}
    assert (
        handle_event({"type": kind, "object": bookmark if kind == "BOOKMARK" else job(7)}, "FineTuneJob", cache)
        == version
    )
    assert bool(version_of(cache)) is there


@pytest.mark.parametrize(("status", "since"), [(410, 0), (0, 42), (500, 42), (429, 42), (403, 42)])
def test_expired_version_is_listed_again(status: int, since: int) -> None:
    assert resume_from(ApiError(status, "", ""), 42) == since


def test_states_are_counted() -> None:
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


def test_stage_duration_is_observed_once() -> None:
    def total() -> float:
        return REGISTRY.get_sample_value("tuneyard_stage_duration_seconds_sum", {"stage": "train"}) or 0.0

    before = total()
    done = stage("Succeeded", startedAt="2030-01-01T00:00:00Z", finishedAt="2030-01-01T00:01:30Z")
    measure(stage("Running", startedAt="2030-01-01T00:00:00Z"), done)
    measure(done, done)
    measure({}, stage("Adopted"))
    assert total() == before + 90


def test_memory_of_an_object() -> None:
    """Dicts would take ten times as much; see docs/decisions/0012."""
    cache = Cache(KINDS)
    one = job(1, "Training") | {"spec": {"text": "x" * 2000}}
    cache.put(one)
    entry = cache._entries["FineTuneJob"]["team", "x"]
    assert sys.getsizeof(entry.raw) < 2400
