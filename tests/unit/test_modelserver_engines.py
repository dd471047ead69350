"""Which engine serves an artifact, and in which image."""

import json
from typing import Any

import pytest

from support.builders import OLD, SETTINGS, artifact
from support.serving import Serving
from tuneyard_api.registry import ARTIFACT_FORMATS
from tuneyard_operator.machinery.objects import Json, condition_in

FORMATS = [{"format": form, "uri": f"s3://a/{form}", "digest": OLD} for form in ("bf16", "gguf-q5_k_m")]


def serving(form: str = "recommended", recommended: str = "gguf-q5_k_m", **spec: Any) -> Serving:
    """A ModelServer that follows a FineTuneJob with a bf16 and a GGUF artifact."""
    cluster = Serving({"fineTuneJobRef": {"name": "tune", "format": form}}, **spec)
    cluster.settings = SETTINGS.model_copy(update={"images": {"llamacpp": "llamacpp:1"}})
    cluster.publish(artifacts=FORMATS, recommended={"format": recommended})
    return cluster


def containers(cluster: Serving) -> dict[str, Json]:
    children = cluster.dry_run().apply
    pod: Json = next(child for child in children if child["kind"] == "Deployment")["spec"]["template"]["spec"]
    return {container["name"]: container for container in pod["initContainers"] + pod["containers"]}


def request_of(container: Json) -> Json:
    command: list[str] = container["command"]
    request: Json = json.loads(command[command.index("--request") + 1])
    return request


@pytest.mark.parametrize("form", ["recommended", "gguf-q5_k_m"])
@pytest.mark.parametrize("engine", [{}, {"engine": "auto"}, {"engine": "llamacpp"}])
def test_gguf_is_served_by_llamacpp(form: str, engine: dict[str, str]) -> None:
    found = containers(serving(form, **engine, llamacpp={"maxModelLen": 512}))
    assert {container["image"] for container in found.values()} == {"llamacpp:1"}, "none needs the image with torch"
    request = request_of(found["engine"])
    assert request["engine"] == "llamacpp"
    assert request["options"]["maxModelLen"] == 512
    assert found["proxy"]["command"][2:4] == ["--engine", "llamacpp"]
    assert request_of(found["fetch"])["engine"] == "llamacpp"


@pytest.mark.parametrize("engine", [{}, {"engine": "vllm"}])
def test_other_formats_are_served_by_vllm(engine: dict[str, str]) -> None:
    found = containers(serving("bf16", **engine))
    assert {container["image"] for container in found.values()} == {"server:1"}
    assert request_of(found["engine"])["engine"] == "vllm"


def test_format_of_a_uri_is_not_known() -> None:
    assert request_of(containers(Serving(artifact(OLD)))["fetch"])["engine"] == "vllm"


def test_recommended_artifact_that_the_engine_cannot_load() -> None:
    step = serving(engine="vllm").dry_run()
    assert step.apply == []
    found = condition_in(step.status["conditions"], "Progressing")
    assert found["reason"] == "FormatNotLoadable"
    assert "vllm cannot load gguf-q5_k_m" in found["message"]
    assert "engine: auto" in found["message"]


def test_release_before_is_served_while_the_new_one_cannot_be_loaded() -> None:
    cluster = serving(recommended="bf16", engine="vllm")
    cluster.step(0)
    cluster.become_ready(OLD).step(30)
    cluster.publish(artifacts=FORMATS, recommended={"format": "gguf-q5_k_m"})
    step = cluster.step(60)
    assert (step.apply, step.delete) == ([], [])
    assert condition_in(step.status["conditions"], "Available")["status"] == "True"
    assert condition_in(step.status["conditions"], "Progressing")["reason"] == "FormatNotLoadable"


def test_every_format_has_an_engine() -> None:
    assert all(entry.engines for entry in ARTIFACT_FORMATS.values())
