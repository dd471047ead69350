"""Several replicas have a PodDisruptionBudget, whether or not they come up."""

import json

import pytest

from demo.kubectl import apply, get, items, kubectl, wait_until
from e2e.conftest import NamespaceFactory
from e2e.jobs import model_server

NAMESPACE, SERVER = "e2e-disruption", "two"
BUDGET = f"{SERVER}-modelserver"


@pytest.fixture(scope="module")
def applied(new_namespace: NamespaceFactory) -> None:
    """A ModelServer with two replicas, whose artifact does not exist: no engine is started."""
    new_namespace(NAMESPACE)
    source = {"uri": "s3://artifacts/none", "digest": f"sha256:{'0' * 64}", "secretRef": {"name": "s3-credentials"}}
    apply(model_server(SERVER, NAMESPACE, source, replicas=2))
    wait_until(lambda: bool(items("poddisruptionbudgets", NAMESPACE)), "there is a budget", 60)


def test_budget_counts_the_replicas(applied: None) -> None:
    def expected_pods() -> int:
        return int(get("poddisruptionbudget", BUDGET, NAMESPACE).get("status", {}).get("expectedPods", 0))

    wait_until(lambda: expected_pods() == 2, "Kubernetes finds the pods that it is for", 60)


def test_drift_is_corrected(applied: None) -> None:
    wrong = json.dumps({"spec": {"maxUnavailable": 2}})
    kubectl("patch", "poddisruptionbudget", BUDGET, "-n", NAMESPACE, "--type=merge", "-p", wrong)
    wait_until(
        lambda: get("poddisruptionbudget", BUDGET, NAMESPACE)["spec"]["maxUnavailable"] == 1, "it is put right", 60
    )
