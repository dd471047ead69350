"""The Deployment, the pod and the Service of a ModelServer."""

import json
from typing import Any

import pytest

from support.builders import NOW, OLD, SETTINGS, artifact, model_server
from tuneyard_api.base import SecretRef
from tuneyard_api.contracts.serving import EngineRequest
from tuneyard_api.kinds.modelserver import ModelServerSpec, Release
from tuneyard_operator.machinery.objects import Json
from tuneyard_operator.modelserver.artifact import release_of
from tuneyard_operator.modelserver.children import SWITCHED_AT, deployment, pod_spec, revision_of, scaled, service

SERVER = model_server(artifact(OLD))
RELEASE = Release(uri="s3://artifacts/x", digest=OLD, secret_ref=SecretRef(name="s3"))


def spec(**parts: Any) -> ModelServerSpec:
    return ModelServerSpec.model_validate({"model": {"uri": "s3://artifacts/x", "digest": OLD}} | parts)


def pod(**parts: Any) -> Json:
    return pod_spec(SERVER, spec(**parts), RELEASE, SETTINGS)


def test_revision_ignores_replicas() -> None:
    assert revision_of(pod(replicas=1)) == revision_of(pod(replicas=5))
    assert revision_of(pod()) != revision_of(pod(vllm={"maxModelLen": 512}))


def test_labels_and_annotations_make_another_revision() -> None:
    """And the Deployment, whose name has it, selects by the operator's labels alone."""
    options = {"labels": {"team": "ml"}, "annotations": {"x/y": "z"}, "serviceAccountName": "server"}
    wanted, plain = spec(pod=options), spec()
    made = deployment(SERVER, wanted, RELEASE, pod(pod=options), replicas=1)
    template = made["spec"]["template"]
    assert template["metadata"]["labels"].items() >= {"team": "ml", **made["spec"]["selector"]["matchLabels"]}.items()
    assert template["metadata"]["labels"]["app.kubernetes.io/instance"] == "bot"
    assert template["metadata"]["annotations"] == {"x/y": "z"}
    assert template["spec"]["serviceAccountName"] == "server"
    assert "team" not in made["spec"]["selector"]["matchLabels"]
    only_labels = spec(pod={"labels": {"team": "ml"}})
    assert len({revision_of(pod(), each.pod) for each in (wanted, plain, only_labels)}) == 3
    assert scaled(made, 0)["spec"]["template"] == template, "an old revision keeps its pods as they are"


def test_replicas_are_spread() -> None:
    made = pod(resources={"topologySpreadConstraints": [{"topologyKey": "zone", "maxSkew": 2}]})
    (constraint,) = made["topologySpreadConstraints"]
    assert constraint["labelSelector"] == {"matchLabels": {"tuneyard.dev/modelserver": "bot"}}
    assert (constraint["maxSkew"], constraint["whenUnsatisfiable"]) == (2, "ScheduleAnyway")


def test_secrets_are_mounted_where_needed() -> None:
    made = pod(auth={"apiKeySecretRef": {"name": "key"}})
    containers = {each["name"]: each for each in made["initContainers"] + made["containers"]}
    mounts = {name: {mount["name"] for mount in each["volumeMounts"]} for name, each in containers.items()}
    assert [name for name, seen in mounts.items() if "s3" in seen] == ["fetch"]
    assert [name for name, seen in mounts.items() if "auth" in seen] == ["proxy"]


def test_only_engine_gets_gpus() -> None:
    made = pod(resources={"gpus": 2, "limits": {"cpu": "4"}})
    limits = {each["name"]: each["resources"]["limits"] for each in made["containers"]}
    assert limits["engine"] == {"cpu": "4", "nvidia.com/gpu": "2"}
    assert "nvidia.com/gpu" not in limits["proxy"]


def test_engine_is_started_with_one_request() -> None:
    made = pod(resources={"gpus": 2, "limits": {"cpu": "1500m"}}, vllm={"maxModelLen": 512})
    program, verb, flag, text, *_ = made["containers"][0]["command"]
    assert (program, verb, flag) == ("tuneyard-server", "engine", "--request")
    request = EngineRequest.model_validate(json.loads(text))
    assert (request.engine, str(request.model), request.served_name) == ("vllm", "/models/model", "bot")
    assert (request.gpus, request.threads) == (2, 2)
    assert request.options == {"maxModelLen": 512, "extraArgs": {}}


def test_fetch_checks_the_same_request() -> None:
    made = pod(vllm={"toolCallParser": "hermes"})
    fetch, engine = made["initContainers"][0]["command"], made["containers"][0]["command"]
    assert fetch[fetch.index("--request") + 1] == engine[engine.index("--request") + 1]


def test_draft_model_is_fetched_too() -> None:
    draft = {"uri": "s3://models/small", "digest": OLD}
    command = pod(vllm={"speculative": {"method": "draftModel", "model": draft}})["initContainers"][0]["command"]
    assert command[command.index("--draft-uri") + 1] == "s3://models/small"
    assert command[command.index("--draft-digest") + 1] == OLD
    assert "--draft-uri" not in pod(vllm={"speculative": {"method": "ngram"}})["initContainers"][0]["command"]


def test_every_container_that_serves_is_probed() -> None:
    engine, proxy = pod()["containers"]
    ports = {port["name"] for container in (engine, proxy) for port in container["ports"]}
    for container, probe in ((engine, "startupProbe"), (engine, "livenessProbe"), (proxy, "readinessProbe")):
        assert container[probe]["httpGet"]["port"] in ports
    assert engine["command"][-2:] == ["--probes-port", "8083"]


def test_pages_of_other_origins_are_named_to_the_proxy() -> None:
    command = pod(cors={"allowedOrigins": ["https://a.example", "https://b.example"]})["containers"][1]["command"]
    assert command[-4:] == ["--allow-origin", "https://a.example", "--allow-origin", "https://b.example"]


@pytest.mark.parametrize("secret", [None, "s3"])
def test_deployment_of_an_older_operator_shows_its_release(secret: str | None) -> None:
    document = {"uri": "s3://artifacts/x", "digest": OLD, "format": None, "secret": secret}
    older = {"metadata": {"annotations": {"tuneyard.dev/artifact": json.dumps(document)}}}
    assert release_of(older) == (RELEASE if secret else RELEASE.model_copy(update={"secret_ref": None}))


def test_containers_are_restricted() -> None:
    made = pod()
    assert made["automountServiceAccountToken"] is False
    for container in made["initContainers"] + made["containers"]:
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_children_are_owned_without_user_labels() -> None:
    server = model_server(artifact(OLD))
    server["metadata"]["labels"] = {"argocd.argoproj.io/instance": "app"}
    made = deployment(server, spec(), RELEASE, pod(), replicas=3)
    assert (made["spec"]["replicas"], release_of(made)) == (3, RELEASE)
    front = service(server, "abc", NOW)
    for child in (made, front):
        assert child["metadata"]["ownerReferences"][0]["uid"] == "uid-bot"
        assert "argocd.argoproj.io/instance" not in child["metadata"]["labels"]
    assert front["metadata"]["annotations"][SWITCHED_AT] == "2030-01-02T03:04:05Z"
