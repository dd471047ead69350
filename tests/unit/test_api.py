"""The API models, the schemas made from them, and that both say the same."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from tuneyard_api import reasons
from tuneyard_api.crd import build_crd
from tuneyard_api.kinds import KINDS
from tuneyard_api.kinds.finetunejob import FineTuneJobSpec
from tuneyard_api.kinds.finetunejob_status import FineTuneJobStatus
from tuneyard_api.stages import STAGES

ROOT = Path(__file__).parents[2]
MINIMAL: dict[str, Any] = {
    "model": {"uri": "s3://models/m"},
    "dataset": {"train": [{"uri": "s3://data/d.jsonl"}]},
    "output": {"uri": "s3://artifacts/x"},
}


def schema_of(kind: str) -> dict[str, Any]:
    (crd,) = [build_crd(each) for each in KINDS if each.kind == kind]
    schema: dict[str, Any] = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema


def nodes(schema: dict[str, Any], path: str = "") -> list[tuple[str, dict[str, Any]]]:
    """Every schema inside `schema`, with its path."""
    found = [(path, schema)]
    for name, child in schema.get("properties", {}).items():
        found += nodes(child, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if key in schema:
            found += nodes(schema[key], f"{path}[]")
    return found


def test_defaults_of_a_minimal_job() -> None:
    spec = FineTuneJobSpec.model_validate(MINIMAL)
    assert spec.training.lora.alpha == 2 * spec.training.lora.rank
    assert spec.training.lora.target_modules == ["all-linear"]
    assert spec.dataset.validation.fraction == 0.05
    assert spec.evaluation.on_gate_failure == "Block"
    assert spec.resources.gpus == 1


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("training.lora.rank", 0),
        ("training.backend", "magic"),
        ("training.learningRate", 0),
        ("model.uri", "http://models/m"),
        ("dataset.train", []),
        ("export.formats", ["fp3"]),
        ("resources.gpus", -1),
        ("typo", 1),
    ],
)
def test_bad_specs_are_refused_where_they_are_wrong(path: str, value: object) -> None:
    spec: dict[str, Any] = MINIMAL
    for key in reversed(path.split(".")):
        value = {key: value}
    with pytest.raises(ValidationError) as caught:
        FineTuneJobSpec.model_validate(merged(spec, value))
    assert caught.value.errors()[0]["loc"][: len(path.split("."))] == tuple(path.split("."))


def merged(left: Any, right: Any) -> Any:
    if not (isinstance(left, dict) and isinstance(right, dict)):
        return right
    return left | {key: merged(left.get(key), value) for key, value in right.items()}


def test_wire_form_survives_a_round_trip() -> None:
    spec = FineTuneJobSpec.model_validate(MINIMAL)
    assert FineTuneJobSpec.model_validate(spec.wire()) == spec


@pytest.mark.parametrize("kind", [kind.kind for kind in KINDS])
def test_schemas_are_structural_without_defaults(kind: str) -> None:
    for path, node in nodes(schema_of(kind)):
        assert "$ref" not in node, path
        assert "anyOf" not in node, path
        assert ("default" in node) is path.endswith(".spec.replicas"), path
        assert node.get("type") in {"object", "array", "string", "integer", "number", "boolean"} or node.get(
            "x-kubernetes-int-or-string"
        ), path


@pytest.mark.parametrize("kind", [kind.kind for kind in KINDS])
def test_every_default_is_told_in_the_description(kind: str) -> None:
    """Scalars with a default must say so, since the schema does not hold it."""
    (spec,) = [each.spec for each in KINDS if each.kind == kind]
    silent = []
    definitions = spec.model_json_schema()["$defs"]
    for name, definition in definitions.items():
        for field, schema in definition.get("properties", {}).items():
            default = schema.get("default")
            if isinstance(default, str | int | float) and "const" not in schema:
                silent += [f"{name}.{field}"] if "efault:" not in schema.get("description", "") else []
    assert not silent


def test_conditions_are_merged_by_type() -> None:
    for kind in KINDS:
        conditions = schema_of(kind.kind)["properties"]["status"]["properties"]["conditions"]
        assert conditions["x-kubernetes-list-type"] == "map"
        assert conditions["x-kubernetes-list-map-keys"] == ["type"]


def test_columns_point_into_the_status() -> None:
    for kind in KINDS:
        status = schema_of(kind.kind)["properties"]["status"]["properties"]
        for column in kind.columns:
            if found := re.match(r"\.status\.(\w+)", column.path):
                assert found[1] in status, column


def test_stages_of_the_status_are_the_stages_of_the_chain() -> None:
    (stages,) = [node for path, node in nodes(schema_of("FineTuneJob")) if path == ".status.stages[].name"]
    assert stages["enum"] == list(STAGES)


def test_reasons_are_camel_case_and_unique() -> None:
    words = [value for name, value in vars(reasons).items() if name.isupper()]
    assert len(words) == len(set(words))
    assert all(re.fullmatch(r"([A-Z][a-z]*)+", word) for word in words)


@pytest.mark.parametrize(
    "path",
    sorted([*(ROOT / "examples").glob("*.yaml"), *(ROOT / "examples" / "ranks").glob("*.yaml")]),
    ids=lambda path: path.name,
)
def test_examples_are_valid(path: Path) -> None:
    specs = {kind.kind: kind.spec for kind in KINDS}
    documents = list(yaml.safe_load_all(path.read_text()))
    assert documents
    for document in documents:
        specs[document["kind"]].model_validate(document["spec"])


def test_empty_status_is_valid() -> None:
    assert FineTuneJobStatus().wire() == {"observedGeneration": 0, "phase": "Pending", "conditions": [], "stages": []}
