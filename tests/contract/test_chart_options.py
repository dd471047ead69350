"""The chart's options, each against an API server of its own: images, roles, network policies, metrics."""

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from demo.kubectl import wait_until
from support.apiserver import ApiServer, api_server
from support.builders import OLD, SETTINGS, artifact, fine_tune_job, model_server
from support.chart import CHART, helm, rendered
from support.foreigncrds import FOREIGN, foreign_crd
from tuneyard_api.kinds.finetunejob import FineTuneJobSpec
from tuneyard_api.runs import revision
from tuneyard_operator.finetunejob.children import stage_job
from tuneyard_operator.modelserver.children import labels

Json = dict[str, Any]
NAMESPACE = "team-a"
DIGEST = f"sha256:{'0' * 64}"
ALL = (
    "networkPolicies.enabled=true",
    f"networkPolicies.namespaces={{{NAMESPACE}}}",
    "networkPolicies.storeEgress[0].ports[0].port=9000",
    "networkPolicies.clients[0].podSelector.matchLabels.app=web",
    "networkPolicies.metricsFrom[0].namespaceSelector.matchLabels.name=monitoring",
    "metrics.service=true",
    "metrics.podMonitors=true",
    "metrics.alerts=true",
    "metrics.dashboards=true",
    "metrics.labels.release=prometheus",
    "podLabels.team=ml",
    "runtimeClassName=gvisor",
    "serviceAccount.name=operator",
    "images.registry=mirror.example.com/tuneyard",
)
NAMESPACED = (*ALL, f"watchNamespaces={{{NAMESPACE}}}")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    folder = tmp_path_factory.mktemp("api") / "server"
    with api_server(folder, controllers="clusterrole-aggregation-controller") as running:
        running.install_crds()
        running.install(*(foreign_crd(*kind) for kind in FOREIGN))
        for name in (NAMESPACE, "tuneyard-system"):
            running.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        yield running


def template(*values: str) -> list[Json]:
    return rendered("tuneyard", "tuneyard-system", *(part for value in values for part in ("--set", value)))


def of_kind(kind: str, objects: list[Json]) -> dict[str, Json]:
    return {each["metadata"]["name"]: each for each in objects if each["kind"] == kind}


def kubectl(server: ApiServer, *words: str, stdin: Json | None = None) -> str:
    text = json.dumps(stdin) if stdin else None
    done = subprocess.run(
        [*server.kubectl, *words], input=text, capture_output=True, text=True, check=False, timeout=180
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "values", [(), ALL, (*ALL, f"watchNamespaces={{{NAMESPACE}}}")], ids=["none", "all", "namespaced"]
)
def test_every_object_is_valid(values: tuple[str, ...], server: ApiServer) -> None:
    listed = {"apiVersion": "v1", "kind": "List", "items": template(*values)}
    kubectl(server, "apply", "--server-side", "--validate=strict", "--dry-run=server", "-f", "-", stdin=listed)


def images(values: Json) -> dict[str, str]:
    """The images of a release that has these values of `images`."""
    given = ("--set-json", f"images={json.dumps(values)}")
    (deployment,) = of_kind("Deployment", rendered("tuneyard", NAMESPACE, images=given)).values()
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    variables = {each["name"]: each.get("value", "") for each in container["env"]}
    return {
        "operator": container["image"],
        "trainer": variables["TUNEYARD_TRAINER_IMAGE"],
        **json.loads(variables.get("TUNEYARD_IMAGES", "{}")),
    }


@pytest.mark.parametrize("role", ["operator", "trainer", "server"])
def test_without_images_the_message_says_what_to_do(role: str) -> None:
    with pytest.raises(AssertionError, match=rf"images\.{role} is not set.*images/build --push REGISTRY"):
        template(f"images.{role}=")


def test_image_by_parts_in_a_mirror() -> None:
    trainer = {"repository": "trainer", "tag": "1", "digest": DIGEST}
    more = {"server": "server:1", "llama": "llama:2", "other": ""}
    found = images({"registry": "mirror.example.com/x/", "operator": "operator:1", "trainer": trainer, **more})
    assert found == {
        "operator": "mirror.example.com/x/operator:1",
        "trainer": f"mirror.example.com/x/trainer:1@{DIGEST}",
        "llama": "mirror.example.com/x/llama:2",
    }


@pytest.mark.parametrize(
    "wrong",
    [
        "images.trainer.digest=latest",
        "images.trainer.name=x",
        "serviceAccount.create=false",
        "metrics.interval=soon",
        "networkPolicies.on=true",
    ],
)
def test_wrong_values_are_refused(wrong: str) -> None:
    with pytest.raises(AssertionError, match="schema"):
        helm("template", "tuneyard", str(CHART), "--set", wrong)


def test_existing_service_account_is_used() -> None:
    objects = template("serviceAccount.create=false", "serviceAccount.name=mine")
    assert not of_kind("ServiceAccount", objects)
    (deployment,) = of_kind("Deployment", objects).values()
    assert deployment["spec"]["template"]["spec"]["serviceAccountName"] == "mine"
    bindings = [*of_kind("ClusterRoleBinding", objects).values(), *of_kind("RoleBinding", objects).values()]
    assert [each["subjects"][0]["name"] for each in bindings] == ["mine", "mine"]


VIEW = {"get", "list", "watch"}
EDIT = VIEW | {"create", "patch", "delete"}


@pytest.mark.parametrize(("role", "verbs"), [("view", VIEW), ("edit", EDIT), ("admin", EDIT)])
def test_roles_of_kubernetes_have_our_kinds(role: str, verbs: set[str], server: ApiServer) -> None:
    """The roles aggregate ours; a namespace's admin, who is no cluster admin, may tune and serve."""
    roles = [each for each in template() if each["metadata"]["name"] in ("tuneyard-view", "tuneyard-edit")]
    assert len(roles) == 2
    kubectl(server, "apply", "-f", "-", stdin={"apiVersion": "v1", "kind": "List", "items": roles})
    kubectl(server, "create", "rolebinding", f"{role}s", f"--clusterrole={role}", f"--user={role}er", "-n", NAMESPACE)
    wait_until(lambda: may(server, f"{role}er", sorted(verbs)[0], "modelservers"), "aggregated", 120, every=0.2)
    for kind in ("finetunejobs", "modelservers"):
        allowed = {verb for verb in EDIT if may(server, f"{role}er", verb, kind)}
        assert allowed == verbs
    assert may(server, f"{role}er", "patch", "modelservers", "scale") is ("patch" in verbs)
    assert not may(server, f"{role}er", "get", "finetunejobs", namespace="tuneyard-system")


def may(
    server: ApiServer, user: str, verb: str, plural: str, subresource: str = "", namespace: str = NAMESPACE
) -> bool:
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": user,
            "resourceAttributes": {
                "namespace": namespace,
                "verb": verb,
                "group": "tuneyard.dev",
                "resource": plural,
                "subresource": subresource,
            },
        },
    }
    answer = server.request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
    return bool(answer["status"]["allowed"])


def test_network_policies() -> None:
    policies = of_kind("NetworkPolicy", template(*ALL))
    assert set(policies) == {"tuneyard", "tuneyard-stages", "tuneyard-servers"}
    servers = policies["tuneyard-servers"]["spec"]
    (operator, http, metrics) = servers["ingress"]
    assert operator["ports"] == [{"port": "probes"}]
    assert [port["port"] for rule in policies["tuneyard"]["spec"]["egress"] for port in rule["ports"]][-1] == 8083
    assert http == {"ports": [{"port": "http"}], "from": [{"podSelector": {"matchLabels": {"app": "web"}}}]}
    assert metrics["from"] == [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}]
    assert servers["policyTypes"] == ["Ingress", "Egress"]
    assert servers["egress"][-1] == {"ports": [{"port": 9000}]}
    stages = policies["tuneyard-stages"]["spec"]
    assert stages["ingress"][-1] == {"from": [{"podSelector": {"matchLabels": {"tuneyard.dev/stage": "train"}}}]}
    open_egress = of_kind("NetworkPolicy", template(*ALL[:2]))["tuneyard-servers"]["spec"]
    assert (open_egress["policyTypes"], "egress" in open_egress) == (["Ingress"], False)


def test_monitors_select_the_pods_that_are_made() -> None:
    job = fine_tune_job()
    spec = FineTuneJobSpec.model_validate(job["spec"])
    stage = stage_job(job, revision(job), spec, "train", {}, SETTINGS)["spec"]["template"]
    made = {
        "stages": stage["metadata"]["labels"],
        "servers": labels(model_server(artifact(OLD)), "r1"),
        "operator": next(iter(of_kind("Deployment", template()).values()))["spec"]["template"]["metadata"]["labels"],
    }
    monitors = of_kind("PodMonitor", template(*ALL))
    policies = of_kind("NetworkPolicy", template(*ALL))
    for name, found in made.items():
        assert found.items() >= monitors[f"tuneyard-{name}"]["spec"]["selector"]["matchLabels"].items()
        policy = policies["tuneyard" if name == "operator" else f"tuneyard-{name}"]
        assert found.items() >= policy["spec"]["podSelector"]["matchLabels"].items()


def test_dashboards_and_alerts_are_installed_as_they_are() -> None:
    objects = template(*ALL)
    for name in ("training", "serving"):
        config = of_kind("ConfigMap", objects)[f"tuneyard-dashboard-{name}"]
        assert config["metadata"]["labels"].items() >= {"grafana_dashboard": "1", "release": "prometheus"}.items()
        source = CHART / "files" / "dashboards" / f"{name}.json"
        assert json.loads(config["data"][f"{name}.json"]) == json.loads(source.read_text())
    (rule,) = of_kind("PrometheusRule", objects).values()
    assert {"{{ $value }} requests wait in {{ $labels.tuneyard_dev_modelserver }}."} <= {
        each["annotations"]["summary"] for group in rule["spec"]["groups"] for each in group["rules"]
    }
