"""The comparison of RBAC rules with the audit log that tests/e2e/test_permissions.py makes."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from e2e.audit import Right, calls, exercised, granted, refused

START = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
ROLE = {
    "rules": [
        {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["list", "create", "patch"]},
        {
            "apiGroups": ["tuneyard.dev"],
            "resources": ["finetunejobs/status", "modelservers/status"],
            "verbs": ["patch"],
        },
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]},
    ]
}


def event(
    verb: str, at: str = "2030-01-02T03:04:05.000001Z", code: int = 200, decision: str = "allow", **thing: str
) -> dict[str, Any]:
    """As the API server of Kubernetes 1.34 writes it, without what nobody reads."""
    return {
        "kind": "Event",
        "level": "Metadata",
        "stage": "ResponseComplete",
        "verb": verb,
        "objectRef": {"namespace": "team", "apiVersion": "v1", **thing},
        "responseStatus": {"metadata": {}, "code": code},
        "requestReceivedTimestamp": at,
        "annotations": {"authorization.k8s.io/decision": decision, "authorization.k8s.io/reason": ""},
    }


LIST_PODS = event("list", resource="pods")
LIST_JOBS = event("list", resource="jobs", apiGroup="batch")
NEW_JOB = event("patch", code=201, resource="jobs", apiGroup="batch")
SAME_JOB = event("patch", resource="jobs", apiGroup="batch")
STATUS = event("patch", resource="finetunejobs", apiGroup="tuneyard.dev", subresource="status")


def test_rules_are_taken_apart() -> None:
    assert {str(right) for right in granted([ROLE])} == {
        "list jobs.batch",
        "create jobs.batch",
        "patch jobs.batch",
        "patch finetunejobs/status.tuneyard.dev",
        "patch modelservers/status.tuneyard.dev",
        "list pods",
    }


def test_unused_rights_are_found() -> None:
    unused = granted([ROLE]) - exercised([LIST_PODS, LIST_JOBS, SAME_JOB, STATUS])
    assert {str(right) for right in unused} == {"create jobs.batch", "patch modelservers/status.tuneyard.dev"}


def test_apply_that_creates_needs_two_verbs() -> None:
    jobs = [Right("batch", "jobs", verb) for verb in ("create", "patch")]
    assert exercised([NEW_JOB]) == set(jobs)
    assert exercised([SAME_JOB]) == {jobs[1]}


def test_subresource_is_not_its_resource() -> None:
    assert exercised([STATUS]) == {Right("tuneyard.dev", "finetunejobs/status", "patch")}


def test_forbidden_calls_lack_a_right() -> None:
    forbidden = event("get", code=403, decision="forbid", resource="secrets")
    over_quota = event("patch", code=403, resource="jobs", apiGroup="batch")
    assert refused([LIST_PODS, forbidden, over_quota]) == {Right("", "secrets", "get")}


@pytest.mark.parametrize(
    ("call", "counts"),
    [
        (LIST_PODS, True),
        (event("list", at="2030-01-02T03:04:04.999999Z", resource="pods"), False),
        ({"verb": "get", "requestURI": "/version", "requestReceivedTimestamp": "2030-01-02T03:05:00Z"}, False),
    ],
    ids=["a call", "of an earlier installation", "of no resource"],
)
def test_calls_are_read_from_json_lines(call: dict[str, Any], counts: bool) -> None:
    assert list(calls([json.dumps(call)], START)) == ([call] if counts else [])
