"""The chart against helm and a real API server."""

import base64
import json
from collections.abc import Iterator
from datetime import timedelta

import pytest
from cryptography import x509

from demo.kubectl import Json, KubectlError, apply, kubectl
from support.builders import SETTINGS
from support.chart import CHART, IMAGES, helm, rendered
from tuneyard_api.base import SecretRef
from tuneyard_api.kinds.finetunejob import FineTuneJobSpec
from tuneyard_api.kinds.modelserver import ModelServerSpec, Release
from tuneyard_api.names import API_VERSION, Stage
from tuneyard_api.stages import STAGES
from tuneyard_operator.finetunejob.children import stage_job
from tuneyard_operator.modelserver.children import pod_spec

NAMESPACE = "contract-chart"


@pytest.fixture(scope="module", autouse=True)
def namespace() -> Iterator[None]:
    """Enforces Pod Security `restricted`."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}})
    yield
    kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def template(*options: str) -> list[Json]:
    return rendered("tuneyard", NAMESPACE, *options)


def accepted(*documents: Json) -> str:
    """What the API server says to documents that it would take."""
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(documents)})
    return kubectl("apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", "-", stdin=listed)


def test_lint() -> None:
    assert "0 chart(s) failed" in helm("lint", "--strict", str(CHART))


@pytest.mark.parametrize("options", [[], ["--set", f"watchNamespaces={{{NAMESPACE},default}}"]])
def test_rendered_objects_are_valid(options: list[str]) -> None:
    assert "deployment.apps/tuneyard" in accepted(*template(*options))


def test_namespaced_release_has_no_cluster_role() -> None:
    kinds = {each["kind"] for each in template("--set", f"watchNamespaces={{{NAMESPACE}}}")}
    webhook = {"Service", "Secret", "ValidatingWebhookConfiguration"}
    namespaced = {"ServiceAccount", "Role", "RoleBinding", "Deployment", "PodDisruptionBudget"}
    assert kinds == namespaced | webhook
    off = template("--set", f"watchNamespaces={{{NAMESPACE}}}", "--set", "webhook.enabled=false")
    assert {each["kind"] for each in off} == namespaced
    assert "webhook" not in json.dumps(off)


def test_no_rights_for_secrets_and_specs() -> None:
    (role,) = [each for each in template("--set", "aggregateRoles=false") if each["kind"] == "ClusterRole"]
    verbs = {resource: set(rule["verbs"]) for rule in role["rules"] for resource in rule["resources"]}
    assert "secrets" not in verbs
    assert all("*" not in each for each in [*verbs.values(), set(verbs)])
    assert verbs["modelservers"] == {"list", "watch"}
    assert verbs["finetunejobs"] == verbs["modelservers"] | {"delete"}
    assert verbs["pods"] == {"list", "watch"}


def webhook_rights(*options: str) -> tuple[dict[str, list[str]], set[str]]:
    """The verbs on what the webhook looks up, and the kinds that the operator is told to look up."""
    rendered = template(*options)
    kinds = ("localqueues", "priorityclasses", "secrets")
    rules = [rule for each in rendered for rule in each.get("rules", []) if rule["resources"][0] in kinds]
    (deployment,) = [each for each in rendered if each["kind"] == "Deployment"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    lookups = {each["name"]: each.get("value") for each in container["env"]}.get("TUNEYARD_WEBHOOK_LOOKUPS") or ""
    return {rule["resources"][0]: rule["verbs"] for rule in rules}, set(lookups.split())


@pytest.mark.parametrize(
    ("options", "rights", "lookups"),
    [
        ([], {"localqueues", "priorityclasses"}, {"LocalQueue", "PriorityClass"}),
        (
            ["webhook.checkSecrets=true"],
            {"localqueues", "priorityclasses", "secrets"},
            {"LocalQueue", "PriorityClass", "Secret"},
        ),
        (["webhook.checkReferences=false"], set(), set()),
        (["webhook.enabled=false", "webhook.checkSecrets=true"], set(), set()),
        ([f"watchNamespaces={{{NAMESPACE}}}"], {"localqueues"}, {"LocalQueue"}),
    ],
)
def test_rights_of_the_webhook(options: list[str], rights: set[str], lookups: set[str]) -> None:
    granted, told = webhook_rights(*(part for option in options for part in ("--set", option)))
    assert granted == {right: ["get"] for right in rights}
    assert told == lookups


def webhooks(*options: str) -> list[Json]:
    (found,) = [each for each in template(*options) if each["kind"] == "ValidatingWebhookConfiguration"]
    configured: list[Json] = found["webhooks"]
    return configured


def test_webhook_fails_open_in_its_namespaces() -> None:
    for webhook in webhooks():
        assert (webhook["failurePolicy"], webhook["timeoutSeconds"], webhook["sideEffects"]) == ("Ignore", 5, "None")
        assert "namespaceSelector" not in webhook
    for webhook in webhooks("--set", f"watchNamespaces={{{NAMESPACE}}}"):
        (expression,) = webhook["namespaceSelector"]["matchExpressions"]
        assert expression["values"] == [NAMESPACE]


def test_certificate_names_the_service() -> None:
    rendered = template()
    (secret,) = [each for each in rendered if each["kind"] == "Secret"]
    (service,) = [each for each in rendered if each["kind"] == "Service"]
    decoded = {key: base64.b64decode(value) for key, value in secret["data"].items()}
    certificate, authority = (x509.load_pem_x509_certificate(decoded[key]) for key in ("tls.crt", "ca.crt"))
    certificate.verify_directly_issued_by(authority)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    host = f"{service['metadata']['name']}.{NAMESPACE}.svc"
    assert names.get_values_for_type(x509.DNSName) == [host]
    assert certificate.not_valid_after_utc - certificate.not_valid_before_utc > timedelta(days=3649)
    for webhook in webhooks():
        assert webhook["clientConfig"]["service"]["name"] == service["metadata"]["name"]
        assert x509.load_pem_x509_certificate(base64.b64decode(webhook["clientConfig"]["caBundle"]))


def test_certificate_survives_upgrades() -> None:
    """In the cluster, where helm can read it back."""
    try:
        helm("install", "kept", str(CHART), "-n", NAMESPACE, "--skip-crds", *IMAGES, "--set", "replicas=0")
        before = kept()
        helm("upgrade", "kept", str(CHART), "-n", NAMESPACE, *IMAGES, "--set", "replicas=0,logLevel=DEBUG")
        assert kept() == before
    finally:
        helm("uninstall", "kept", "-n", NAMESPACE)


def kept() -> tuple[Json, str]:
    """The Secret's data and the bundle by which the API server trusts it."""
    secret = json.loads(kubectl("get", "secret", "kept-tuneyard-webhook", "-n", NAMESPACE, "-o", "json"))
    name = f"kept-tuneyard.{NAMESPACE}"
    bundle = "jsonpath={.webhooks[0].clientConfig.caBundle}"
    return secret["data"], kubectl("get", "validatingwebhookconfiguration", name, "-o", bundle)


def test_cert_manager_may_make_the_certificate() -> None:
    rendered = template("--set", "webhook.certManager.enabled=true")
    (certificate,) = [each for each in rendered if each["kind"] == "Certificate"]
    (issuer,) = [each for each in rendered if each["kind"] == "Issuer"]
    (deployment,) = [each for each in rendered if each["kind"] == "Deployment"]
    (configured,) = [each for each in rendered if each["kind"] == "ValidatingWebhookConfiguration"]
    assert not [each for each in rendered if each["kind"] == "Secret"]
    assert certificate["spec"]["issuerRef"] == {"kind": "Issuer", "name": issuer["metadata"]["name"]}
    inject = configured["metadata"]["annotations"]["cert-manager.io/inject-ca-from"]
    assert inject == f"{NAMESPACE}/{certificate['metadata']['name']}"
    assert "caBundle" not in configured["webhooks"][0]["clientConfig"]
    volumes = {each["name"]: each for each in deployment["spec"]["template"]["spec"]["volumes"]}
    assert volumes["webhook"]["secret"]["secretName"] == certificate["spec"]["secretName"]
    other = (
        "webhook.certManager.enabled=true,webhook.certManager.issuerRef.name=corp,webhook.certManager.issuerRef.kind="
    )
    rendered = template("--set", f"{other}ClusterIssuer")
    (certificate,) = [each for each in rendered if each["kind"] == "Certificate"]
    assert certificate["spec"]["issuerRef"] == {"kind": "ClusterIssuer", "name": "corp"}
    assert not [each for each in rendered if each["kind"] == "Issuer"]


def test_given_certificate_renders_reproducibly() -> None:
    options = ["--set", "webhook.tls.certificate=C,webhook.tls.key=K,webhook.tls.caBundle=A"]
    assert template(*options) == template(*options), "with Argo CD nothing is ever out of sync"
    (secret,) = [each for each in template(*options) if each["kind"] == "Secret"]
    assert {key: base64.b64decode(value) for key, value in secret["data"].items()} == {
        "ca.crt": b"A",
        "tls.crt": b"C",
        "tls.key": b"K",
    }
    named = template("--set", "webhook.tls.existingSecret=mine,webhook.tls.caBundle=A")
    assert not [each for each in named if each["kind"] == "Secret"]
    assert '"secretName": "mine"' in json.dumps(named)


def test_single_replica_may_be_evicted() -> None:
    assert not [each for each in template("--set", "replicas=1") if each["kind"] == "PodDisruptionBudget"]
    (budget,) = [each for each in template() if each["kind"] == "PodDisruptionBudget"]
    assert budget["spec"]["minAvailable"] == 1


@pytest.mark.parametrize("options", [[], ["--set", f"watchNamespaces={{{NAMESPACE}}}"]])
def test_rights_for_the_lease(options: list[str]) -> None:
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


def test_more_roles_can_have_an_image() -> None:
    (deployment,) = [each for each in template("--set", "images.llama=x/llama:1") if each["kind"] == "Deployment"]
    environment = {
        each["name"]: each.get("value") for each in deployment["spec"]["template"]["spec"]["containers"][0]["env"]
    }
    assert json.loads(environment["TUNEYARD_IMAGES"]) == {"llama": "x/llama:1"}


def test_everything_carries_the_releases_label() -> None:
    for each in template("--set", "labels.team=ml"):
        assert each["metadata"]["labels"]["app.kubernetes.io/instance"] == "tuneyard"
        assert each["metadata"]["labels"]["team"] == "ml"


@pytest.mark.parametrize(
    "wrong",
    [
        "imagePullPolicy=Sometimes",
        "logLevel=loud",
        "logFormat=xml",
        "replicas=-1",
        "unknown=1",
        "webhook.port=80",
        "webhook.enabled=maybe",
        "webhook.tls.existingSecret=mine",
    ],
)
def test_wrong_values_are_refused(wrong: str) -> None:
    with pytest.raises(AssertionError, match="schema"):
        template("--set", wrong)


def pod(name: str, spec: Json) -> Json:
    metadata = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def test_operator_pod_is_restricted() -> None:
    (deployment,) = [each for each in template() if each["kind"] == "Deployment"]
    accounts = [each for each in template() if each["kind"] == "ServiceAccount"]
    apply(*accounts)
    assert "dry run" in accepted(pod("operator", deployment["spec"]["template"]["spec"]))


def owner(kind: str) -> Json:
    metadata = {"name": "x", "namespace": NAMESPACE, "uid": "0", "generation": 1}
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": {}}


POD: Json = {"labels": {"team": "ml"}, "annotations": {"x/y": "z"}, "serviceAccountName": "default"}
PLACED: Json = {
    "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
    "topologySpreadConstraints": [{"topologyKey": "kubernetes.io/hostname"}],
}


@pytest.mark.parametrize("stage", STAGES)
def test_every_stages_pod_is_restricted(stage: Stage) -> None:
    spec = FineTuneJobSpec.model_validate(
        {
            "model": {"uri": "s3://models/m"},
            "dataset": {"train": [{"uri": "s3://data/d"}]},
            "output": {"uri": "s3://artifacts/a", "secretRef": {"name": "s3"}},
            "pod": POD,
            "resources": PLACED,
        }
    )
    job = stage_job(owner("FineTuneJob"), "5b3b1b0a", spec, stage, {}, SETTINGS)
    assert "dry run" in accepted(pod(stage, job["spec"]["template"]["spec"]))
    job["metadata"].pop("ownerReferences")
    assert "dry run" in accepted(job), "and the Job is valid"


def test_server_pod_is_restricted() -> None:
    spec = ModelServerSpec.model_validate(
        {
            "model": {"uri": "s3://artifacts/a", "digest": f"sha256:{'0' * 64}"},
            "auth": {"apiKeySecretRef": {"name": "key"}},
            "pod": POD,
            "resources": PLACED,
        }
    )
    release = Release(uri="s3://artifacts/a", digest=f"sha256:{'0' * 64}", secret_ref=SecretRef(name="s3"))
    assert "dry run" in accepted(pod("server", pod_spec(owner("ModelServer"), spec, release, SETTINGS)))


def test_unrestricted_pod_is_rejected() -> None:
    """The tests above can fail."""
    with pytest.raises(KubectlError, match="violates PodSecurity"):
        accepted(pod("loose", {"containers": [{"name": "x", "image": "x"}]}))
