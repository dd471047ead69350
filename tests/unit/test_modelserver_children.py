"""The Deployment, the pod and the Service of a ModelServer."""

from typing import Any

from support.operatorbuilders import NOW, SETTINGS
from support.servingbuilders import OLD, Scene
from tuneyard_api.kinds.modelserver import ModelServerSpec
from tuneyard_operator.machinery.objects import Json
from tuneyard_operator.modelserver.artifact import Artifact
from tuneyard_operator.modelserver.children import SWITCHED_AT, deployment, pod_spec, revision_of, service


def spec(**parts: Any) -> ModelServerSpec:
    return ModelServerSpec.model_validate({"model": {"uri": "s3://artifacts/x", "digest": OLD}} | parts)


def pod(**parts: Any) -> Json:
    return pod_spec(Scene().server, spec(**parts), Artifact("s3://artifacts/x", OLD, secret="s3"), SETTINGS)


def test_a_revision_is_its_pod_and_not_its_count() -> None:
    assert revision_of(pod(replicas=1)) == revision_of(pod(replicas=5))
    assert revision_of(pod()) != revision_of(pod(vllm={"maxModelLen": 512}))


def test_only_fetch_sees_the_stores_credentials_and_only_the_proxy_the_key() -> None:
    made = pod(auth={"apiKeySecretRef": {"name": "key"}})
    containers = {each["name"]: each for each in made["initContainers"] + made["containers"]}
    mounts = {name: {mount["name"] for mount in each["volumeMounts"]} for name, each in containers.items()}
    assert [name for name, seen in mounts.items() if "s3" in seen] == ["fetch"]
    assert [name for name, seen in mounts.items() if "auth" in seen] == ["proxy"]


def test_gpus_are_limits_of_the_engine_alone() -> None:
    made = pod(resources={"gpus": 2, "limits": {"cpu": "4"}})
    limits = {each["name"]: each["resources"]["limits"] for each in made["containers"]}
    assert limits["engine"] == {"cpu": "4", "nvidia.com/gpu": "2"}
    assert "nvidia.com/gpu" not in limits["proxy"]
    command = made["containers"][0]["command"]
    assert command[command.index("--tensor-parallel-size") + 1] == "2"
    assert not any(each["name"].startswith("VLLM_CPU") for each in made["containers"][0]["env"])


def test_every_container_is_restricted() -> None:
    made = pod()
    assert made["automountServiceAccountToken"] is False
    for container in made["initContainers"] + made["containers"]:
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_children_are_owned_and_carry_nothing_of_the_users_labels() -> None:
    scene = Scene()
    scene.server["metadata"]["labels"] = {"argocd.argoproj.io/instance": "app"}
    made = deployment(scene.server, spec(), Artifact("s3://artifacts/x", OLD), pod())
    front = service(scene.server, "abc", NOW)
    for child in (made, front):
        assert child["metadata"]["ownerReferences"][0]["uid"] == "server-uid"
        assert "argocd.argoproj.io/instance" not in child["metadata"]["labels"]
    assert front["metadata"]["annotations"][SWITCHED_AT] == "2030-01-02T03:04:05Z"
