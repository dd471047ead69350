"""Uninstalling the chart leaves only the CRDs and the users' objects. This module runs last."""

import json
import subprocess

from demo.kubectl import apply, get, items, kubectl, wait_until
from e2e.conftest import NamespaceFactory
from e2e.jobs import fine_tune_job


def left_behind() -> list[str]:
    """The names of all objects in the cluster that have the label of the release."""
    listed = kubectl("api-resources", "--verbs=list,delete", "-o", "name").split()
    kinds = [kind for kind in listed if kind not in ("events", "events.events.k8s.io") and "metrics" not in kind]
    found = kubectl("get", ",".join(kinds), "-A", "-l", "app.kubernetes.io/instance=tuneyard", "-o", "name")
    return found.split()


def test_uninstall_keeps_crds_and_user_objects(new_namespace: NamespaceFactory) -> None:
    namespace = new_namespace("e2e-uninstall")
    apply(fine_tune_job("mine", namespace))
    wait_until(lambda: bool(items("jobs", namespace)), "the job has started", 60)
    assert left_behind(), "the label selects the objects of the installed release"
    assert items("leases", "tuneyard-system")

    subprocess.run(["helm", "uninstall", "tuneyard", "-n", "tuneyard-system", "--wait"], check=True)

    wait_until(lambda: not left_behind(), "all objects of the release are deleted", 60)
    # The operator creates the Lease, so it does not have the label of the release.
    wait_until(lambda: not items("leases", "tuneyard-system"), "the Lease is deleted with its Deployment", 60)
    crds = json.loads(kubectl("get", "crds", "-o", "json"))["items"]
    ours = {crd["metadata"]["name"] for crd in crds if crd["spec"]["group"] == "tuneyard.dev"}
    assert ours == {"finetunejobs.tuneyard.dev", "modelservers.tuneyard.dev"}
    assert get("finetunejob", "mine", namespace)["spec"]["model"]["uri"] == "s3://models/small"
    kubectl("delete", "ftj", "mine", "-n", namespace, "--timeout=30s")
    wait_until(lambda: not items("jobs", namespace), "children are deleted with their owner, without an operator", 60)
