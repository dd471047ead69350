"""The operator has exactly the rights that it uses. Runs after the others: what they made it do is the evidence."""

import json
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

import pytest

from demo.kubectl import Json, get, kubectl
from e2e.audit import calls, exercised, granted, refused
from tuneyard_cluster.settings import AUDIT_LOG, from_environment

BEGAN: Final = datetime.now(UTC)  # before the first test: pytest imports all of them first


def audit_log() -> Iterator[str]:
    """The lines of all its files."""
    pattern = AUDIT_LOG.with_name(f"{AUDIT_LOG.stem}*{AUDIT_LOG.suffix}")
    command = ["docker", "exec", from_environment().node, "sh", "-c", f"cat {pattern}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        yield from process.stdout
    assert process.returncode == 0, "the cluster has no audit log: make it again"


@pytest.fixture(scope="module")
def asked(operator: None) -> list[Json]:
    """Every call since the chart was installed."""
    deployment = get("deployment", "tuneyard", "tuneyard-system")
    return list(calls(audit_log(), datetime.fromisoformat(deployment["metadata"]["creationTimestamp"])))


def test_every_right_is_used(asked: list[Json]) -> None:
    listed = kubectl("get", "clusterroles,roles", "-A", "-l", "app.kubernetes.io/instance=tuneyard", "-o", "json")
    unused = granted(json.loads(listed)["items"]) - exercised(asked)
    assert not unused, f"no test of tests/e2e made the operator use: {', '.join(sorted(map(str, unused)))}"


def test_no_call_lacked_a_right(operator: None) -> None:
    """Since the tests began: in a run of faults before them an API server may have refused what it did not know yet."""
    lacking = refused(calls(audit_log(), BEGAN))
    assert not lacking, f"the chart does not allow: {', '.join(sorted(map(str, lacking)))}"
