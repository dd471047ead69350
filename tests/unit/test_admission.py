"""The verdict on an object that somebody applies: refused with all problems, or stored with warnings."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from support.verdicts import JOB
from support.wrongspecs import DOUBTFUL, Doubtful
from tuneyard_api.kind import Kind
from tuneyard_api.kinds import KINDS
from tuneyard_operator.admission import lookup, review
from tuneyard_operator.admission.review import ALLOWED, Admission, Verdict
from tuneyard_operator.machinery.errors import ApiError

Json = dict[str, Any]
BY_NAME: Mapping[str, Kind] = {kind.kind: kind for kind in KINDS}
JOB_KIND = BY_NAME["FineTuneJob"]


class Cluster:
    """A lookup that knows what exists; None: it cannot know."""

    def __init__(self, exists: bool | None | Exception, seconds: float = 0.0) -> None:
        self.answer = exists
        self.seconds = seconds
        self.asked: list[tuple[str, str, str]] = []

    async def exists(self, kind: str, namespace: str, name: str) -> bool | None:
        self.asked.append((kind, namespace, name))
        await asyncio.sleep(self.seconds)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def admission(cluster: Cluster | None) -> Admission:
    made = Admission()
    made.lookup = cluster
    return made


def obj(spec: Json, **metadata: Any) -> Json:
    return {"metadata": {"name": "x", "namespace": "team"} | metadata, "spec": spec}


def warned(kind: str, spec: Json, cluster: Cluster | None) -> list[str]:
    verdict = asyncio.run(admission(cluster).review(BY_NAME[kind], obj(spec), None))
    assert not verdict.problems
    return verdict.warnings


@pytest.mark.parametrize("doubtful", DOUBTFUL, ids=lambda doubtful: doubtful.warning[:40])
def test_missing_reference_is_a_warning(doubtful: Doubtful) -> None:
    warnings = warned(doubtful.kind, doubtful.spec, Cluster(exists=False))
    assert any(warning.startswith(doubtful.warning) for warning in warnings)
    assert all(len(warning) <= 256 for warning in warnings), "the API server cuts longer ones"
    advice = [warning for warning in warnings if "there is no" not in warning]
    assert warned(doubtful.kind, doubtful.spec, Cluster(exists=True)) == advice


@pytest.mark.parametrize("cluster", [None, Cluster(None), Cluster(ApiError(403, "Forbidden", "no")), Cluster(False, 9)])
def test_unknown_reference_is_no_warning(cluster: Cluster | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(review, "LOOKUP_SECONDS", 0.05)
    assert not warned("FineTuneJob", JOB | {"queueName": "absent", "resources": {"gpus": 1}}, cluster)


def test_names_are_looked_up_in_the_objects_namespace() -> None:
    cluster = Cluster(exists=True)
    warned("FineTuneJob", JOB | {"queueName": "gpus", "priorityClassName": "urgent"}, cluster)
    assert cluster.asked == [("LocalQueue", "team", "gpus"), ("PriorityClass", "team", "urgent")]


async def test_invalid_spec_is_rejected_without_lookups() -> None:
    cluster = Cluster(exists=False)
    wrong = obj(JOB | {"queueName": "GPUs", "training": {"lora": {"rank": 0}}})
    verdict = await admission(cluster).review(JOB_KIND, wrong, None)
    assert verdict.message.splitlines()[0] == "2 problems:"
    assert {problem.path for problem in verdict.problems} == {"spec.training.lora.rank", "spec.queueName"}
    assert all(str(problem) in verdict.message for problem in verdict.problems)
    assert not cluster.asked


async def test_one_problem_is_one_line() -> None:
    verdict = await admission(None).review(JOB_KIND, obj(JOB | {"queueName": "GPUs"}), None)
    assert verdict.message == str(verdict.problems[0])


async def test_unchanged_spec_is_not_validated() -> None:
    """Labels and finalizers of an object have to change, whatever today's rules say of its spec."""
    stored = obj(JOB | {"queueName": "GPUs"})
    labelled = obj(stored["spec"], labels={"a": "b"})
    assert await admission(None).review(JOB_KIND, labelled, stored) is ALLOWED
    changed = obj(stored["spec"] | {"suspend": True})
    assert (await admission(None).review(JOB_KIND, changed, stored)).problems
    deleted = obj(changed["spec"], deletionTimestamp="2026-01-01T00:00:00Z")
    assert await admission(None).review(JOB_KIND, deleted, stored) is ALLOWED


async def test_internal_error_allows_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(kind: Kind, document: Json) -> Verdict:
        raise RuntimeError("ours")

    monkeypatch.setattr(review, "problems", broken)
    assert await admission(None).review(JOB_KIND, obj(JOB), None) is ALLOWED


class Kube:
    """Counts what the API server is asked for."""

    def __init__(self, *there: str) -> None:
        self.there = there
        self.asked: list[tuple[str, str, str]] = []

    async def exists(self, kind: str, namespace: str, name: str) -> bool:
        self.asked.append((kind, namespace, name))
        return kind in self.there


def cached(kind: str, namespace: str, name: str) -> Json | None:
    return {} if (kind, namespace, name) == ("FineTuneJob", "team", "there") else None


@pytest.mark.parametrize(
    ("kind", "name", "there", "exists", "asked"),
    [
        ("FineTuneJob", "there", (), True, []),
        ("FineTuneJob", "absent", (), False, []),
        ("Secret", "x", (), None, []),
        ("PriorityClass", "x", ("PriorityClass",), True, [("PriorityClass", "", "x")]),
        ("LocalQueue", "x", ("LocalQueue",), True, [("LocalQueue", "team", "x")]),
        (
            *("LocalQueue", "x", (lookup.OLDER_LOCAL_QUEUE,), True),
            [("LocalQueue", "team", "x"), (lookup.OLDER_LOCAL_QUEUE, "team", "x")],
        ),
        ("LocalQueue", "x", (), False, [("LocalQueue", "team", "x"), (lookup.OLDER_LOCAL_QUEUE, "team", "x")]),
    ],
)
async def test_lookups_need_a_right(
    kind: str, name: str, there: tuple[str, ...], exists: bool | None, asked: list[tuple[str, str, str]]
) -> None:
    kube = Kube(*there)
    known = lookup.ClusterLookup(kube, cached, ["PriorityClass", "LocalQueue"])
    assert await known.exists(kind, "team", name) is exists
    assert kube.asked == asked
