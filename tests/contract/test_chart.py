"""The chart against helm and a real API server."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from demo.kubectl import Json, KubectlError, apply, kubectl
from support.operatorbuilders import SETTINGS
from tuneyard_api.base import SecretRef
from tuneyard_api.kinds.finetunejob import FineTuneJobSpec
from tuneyard_api.kinds.modelserver import ModelServerSpec, Release
from tuneyard_api.names import API_VERSION, Stage
from tuneyard_api.stages import STAGES
from tuneyard_operator.finetunejob.children import stage_job
from tuneyard_operator.modelserver.children import pod_spec

CHART = Path(__file__).parents[2] / "charts" / "tuneyard"
NAMESPACE = "contract-chart"


@pytest.fixture(scope="module", autouse=True)
def namespace() -> Iterator[None]:
    """Enforces Pod Security `restricted`."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}})
    yield
    kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def helm(*args: str) -> str:
    """Raises AssertionError with helm's words."""
    done = subprocess.run(["helm", *args], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def template(*options: str) -> list[Json]:
    text = helm("template", "tuneyard", str(CHART), "--namespace", NAMESPACE, *options)
    return [document for document in yaml.safe_load_all(text) if document]


def accepted(*documents: Json) -> str:
    """What the API server says to documents that it would take."""
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(documents)})
    return kubectl("apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", "-", stdin=listed)


def test_lint() -> None:
    assert "0 chart(s) failed" in helm("lint", "--strict", str(CHART))


@pytest.mark.parametrize("options", [[], ["--set", f"watchNamespaces={{{NAMESPACE},default}}"]])
def test_the_api_server_takes_what_is_rendered(options: list[str]) -> None:
    assert "deployment.apps/tuneyard" in accepted(*template(*options))


def test_one_namespace_needs_no_right_in_the_cluster() -> None:
    kinds = {each["kind"] for each in template("--set", f"watchNamespaces={{{NAMESPACE}}}")}
    assert kinds == {"ServiceAccount", "Role", "RoleBinding", "Deployment", "PodDisruptionBudget"}


def test_the_operator_reads_no_secrets_and_writes_no_specs() -> None:
    (role,) = [each for each in template() if each["kind"] == "ClusterRole"]
    verbs = {resource: set(rule["verbs"]) for rule in role["rules"] for resource in rule["resources"]}
    assert "secrets" not in verbs
    assert all("*" not in each for each in [*verbs.values(), set(verbs)])
    assert verbs["modelservers"] == {"list", "watch"}
    assert verbs["finetunejobs"] == verbs["modelservers"] | {"delete"}
    assert verbs["pods"] == {"list", "watch"}


def test_a_single_replica_may_be_evicted() -> None:
    assert not [each for each in template("--set", "replicas=1") if each["kind"] == "PodDisruptionBudget"]
    (budget,) = [each for each in template() if each["kind"] == "PodDisruptionBudget"]
    assert budget["spec"]["minAvailable"] == 1


@pytest.mark.parametrize("options", [[], ["--set", f"watchNamespaces={{{NAMESPACE}}}"]])
def test_the_operator_may_do_with_its_lease_what_the_election_does_and_no_more(options: list[str]) -> None:
    rendered = template(*options)
    (deployment,) = [each for each in rendered if each["kind"] == "Deployment"]
    environment = {
        each["name"]: each.get("value") for each in deployment["spec"]["template"]["spec"]["containers"][0]["env"]
    }
    rules = [
        (rule["resources"], rule.get("resourceNames"), set(rule["verbs"]), each["metadata"]["namespace"])
        for each in rendered
        if each["metadata"]["name"].endswith("-lease") and each["kind"] == "Role"
        for rule in each["rules"]
    ]
    assert environment["TUNEYARD_LEASE"] == deployment["metadata"]["name"], "it owns the Lease"
    assert rules == [
        (["leases"], [environment["TUNEYARD_LEASE"]], {"get", "watch", "update"}, NAMESPACE),
        (["leases"], None, {"create"}, NAMESPACE),
        (["deployments"], [environment["TUNEYARD_LEASE"]], {"get"}, NAMESPACE),
    ]
    leases = [rule for each in rendered if "rules" in each for rule in each["rules"] if "leases" in rule["resources"]]
    assert len(leases) == 2, "no other role has rights on leases"


def test_everything_carries_the_releases_label() -> None:
    for each in template("--set", "labels.team=ml"):
        assert each["metadata"]["labels"]["app.kubernetes.io/instance"] == "tuneyard"
        assert each["metadata"]["labels"]["team"] == "ml"


@pytest.mark.parametrize(
    "wrong",
    [
        "imagePullPolicy=Sometimes",
        "images.operator=",
        "logLevel=loud",
        "logFormat=xml",
        "replicas=-1",
        "unknown=1",
    ],
)
def test_wrong_values_are_refused(wrong: str) -> None:
    with pytest.raises(AssertionError, match="schema"):
        template("--set", wrong)


def pod(name: str, spec: Json) -> Json:
    metadata = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def test_the_operators_pod_is_restricted() -> None:
    (deployment,) = [each for each in template() if each["kind"] == "Deployment"]
    accounts = [each for each in template() if each["kind"] == "ServiceAccount"]
    apply(*accounts)
    assert "dry run" in accepted(pod("operator", deployment["spec"]["template"]["spec"]))


def owner(kind: str) -> Json:
    metadata = {"name": "x", "namespace": NAMESPACE, "uid": "0", "generation": 1}
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": {}}


@pytest.mark.parametrize("stage", STAGES)
def test_every_stages_pod_is_restricted(stage: Stage) -> None:
    spec = FineTuneJobSpec.model_validate(
        {
            "model": {"uri": "s3://models/m"},
            "dataset": {"train": [{"uri": "s3://data/d"}]},
            "output": {"uri": "s3://artifacts/a", "secretRef": {"name": "s3"}},
        }
    )
    job = stage_job(owner("FineTuneJob"), spec, stage, {}, SETTINGS)
    assert "dry run" in accepted(pod(stage, job["spec"]["template"]["spec"]))
    job["metadata"].pop("ownerReferences")
    assert "dry run" in accepted(job), "and the Job is valid"


def test_a_servers_pod_is_restricted() -> None:
    spec = ModelServerSpec.model_validate(
        {
            "model": {"uri": "s3://artifacts/a", "digest": f"sha256:{'0' * 64}"},
            "auth": {"apiKeySecretRef": {"name": "key"}},
        }
    )
    release = Release(uri="s3://artifacts/a", digest=f"sha256:{'0' * 64}", secret_ref=SecretRef(name="s3"))
    assert "dry run" in accepted(pod("server", pod_spec(owner("ModelServer"), spec, release, SETTINGS)))


def test_a_pod_that_is_not_restricted_would_be_refused() -> None:
    """The tests above can fail."""
    with pytest.raises(KubectlError, match="violates PodSecurity"):
        accepted(pod("loose", {"containers": [{"name": "x", "image": "x"}]}))
