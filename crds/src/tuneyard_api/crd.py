"""Builds the CustomResourceDefinitions from the pydantic models, the only source of the schema."""

from typing import Any

from tuneyard_api.base import Model
from tuneyard_api.kind import Kind
from tuneyard_api.names import GROUP, VERSION

Json = dict[str, Any]


def structural(schema: Json, definitions: Json) -> Json:
    """Turns pydantic's JSON schema into the structural schema of Kubernetes: no $ref, no null, no defaults.

    Defaults stay out because the API server would write them into the user's spec; the descriptions name them.
    """
    if "$ref" in schema:
        target = definitions[schema["$ref"].rsplit("/", 1)[1]]
        return structural(target | {key: value for key, value in schema.items() if key != "$ref"}, definitions)
    if schema.get("x-kubernetes-int-or-string"):
        return _keep(schema, "description", "x-kubernetes-validations") | {"x-kubernetes-int-or-string": True}
    if "anyOf" in schema:
        (option,) = [option for option in schema["anyOf"] if option.get("type") != "null"]
        rest = {key: value for key, value in schema.items() if key != "anyOf"}
        return structural(option | rest, definitions)
    return _with_children(schema, definitions)


def _with_children(schema: Json, definitions: Json) -> Json:
    kept = _keep(schema, "description", "type", "enum", "pattern", "format", "minimum", "maximum")
    kept |= _keep(schema, "minLength", "maxLength", "minItems", "maxItems", "required")
    kept |= {key: value for key, value in schema.items() if key.startswith("x-kubernetes-")}
    for bound in ("Minimum", "Maximum"):
        # OpenAPI v3.0 writes an exclusive bound as a flag beside the bound.
        if f"exclusive{bound}" in schema:
            kept |= {bound.lower(): schema[f"exclusive{bound}"], f"exclusive{bound}": True}
    if "const" in schema:
        kept |= {"enum": [schema["const"]]}
    if "properties" in schema:
        kept["properties"] = {name: structural(child, definitions) for name, child in schema["properties"].items()}
    if isinstance(schema.get("additionalProperties"), dict):
        kept["additionalProperties"] = structural(schema["additionalProperties"], definitions)
    if "items" in schema:
        kept["items"] = structural(schema["items"], definitions)
    return kept


def _keep(schema: Json, *keys: str) -> Json:
    return {key: schema[key] for key in keys if key in schema}


def model_schema(model: type[Model]) -> Json:
    schema = model.model_json_schema(by_alias=True)
    return structural(schema, schema.get("$defs", {}))


def build_crd(kind: Kind) -> Json:
    """The CustomResourceDefinition of one kind."""
    schema: Json = {
        "type": "object",
        "description": kind.spec.__doc__,
        "required": ["spec"],
        "x-kubernetes-validations": [*(rule.wire() for rule in kind.rules if rule.cel), *kind.transitions],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": model_schema(kind.spec),
            "status": model_schema(kind.status),
        },
    }
    if kind.scale:
        # Without a number a read of the scale subresource is an error, and no autoscaler works.
        schema["properties"]["spec"]["properties"]["replicas"]["default"] = kind.spec.model_fields["replicas"].default
    subresources: Json = {"status": {}} | ({"scale": kind.scale} if kind.scale else {})
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": kind.crd_name},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind.kind,
                "listKind": f"{kind.kind}List",
                "plural": kind.plural,
                "singular": kind.kind.lower(),
                "shortNames": [kind.short],
                "categories": ["tuneyard"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "additionalPrinterColumns": [column.wire() for column in kind.columns],
                    "subresources": subresources,
                    "schema": {"openAPIV3Schema": schema},
                }
            ],
        },
    }
