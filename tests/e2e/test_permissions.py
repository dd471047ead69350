"""The operator has exactly the rights that it uses. This module runs after the others, whose calls are its evidence."""

import json
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

import pytest

from demo.kubectl import Json, get, kubectl
from e2e.audit import calls, exercised, granted, refused
from tuneyard_cluster.settings import AUDIT_LOG, from_environment

STARTED: Final = datetime.now(UTC)  # before the first test, because pytest imports all modules first


def audit_log() -> Iterator[str]:
    """The lines of all files of the audit log."""
    pattern = AUDIT_LOG.with_name(f"{AUDIT_LOG.stem}*{AUDIT_LOG.suffix}")
    command = ["docker", "exec", from_environment().node, "sh", "-c", f"cat {pattern}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        yield from process.stdout
    assert process.returncode == 0, "the cluster has no audit log: recreate it"


@pytest.fixture(scope="module")
def requests(operator: None) -> list[Json]:
    """The operator's calls since the chart was installed."""
    deployment = get("deployment", "tuneyard", "tuneyard-system")
    return list(calls(audit_log(), datetime.fromisoformat(deployment["metadata"]["creationTimestamp"])))


def test_every_right_is_used(requests: list[Json]) -> None:
    labels = "app.kubernetes.io/instance=tuneyard,app.kubernetes.io/component=operator"
    listed = kubectl("get", "clusterroles,roles", "-A", "-l", labels, "-o", "json")
    unused = granted(json.loads(listed)["items"]) - exercised(requests)
    assert not unused, f"no test of tests/e2e uses: {', '.join(sorted(map(str, unused)))}"


def test_no_call_is_forbidden(operator: None) -> None:
    """Earlier calls are ignored: after a restart by a chaos test the API server forbids calls until RBAC is read."""
    forbidden = refused(calls(audit_log(), STARTED))
    assert not forbidden, f"the chart does not allow: {', '.join(sorted(map(str, forbidden)))}"
