"""Builds the CustomResourceDefinitions from the pydantic models, the only source of the schema."""

from typing import Any, NamedTuple

from tuneyard_api.base import Model, cel
from tuneyard_api.kinds.finetunejob import CHANGEABLE, FineTuneJobSpec, FineTuneJobStatus
from tuneyard_api.kinds.modelserver import ModelServerSpec, ModelServerStatus
from tuneyard_api.names import GROUP, VERSION

Json = dict[str, Any]

# A child's name is `<name>-<stage>-<hash>` and must fit a label (63 characters).
NAME_FITS = cel("size(self.metadata.name) <= 44", "metadata.name may have at most 44 characters")


# Nodes find each other by names in DNS, which are made of the job's.
NAMES_A_HOST = cel(
    "!has(self.spec.resources) || !has(self.spec.resources.nodes) || self.spec.resources.nodes == 1 || "
    "self.metadata.name.matches('^[a-z][-a-z0-9]*$')",
    "with several nodes metadata.name is part of host names: it begins with a letter, and has no dots",
)

# Of a FineTuneJob, in which no stage is at work.
RESTING = ("Pending", "Suspended", "Succeeded", "Failed")


def unchanged_while_running() -> dict[str, str]:
    """Every field of the spec but the changeable ones is as it was, or the job rests."""
    fields = {info.alias or name: info.is_required() for name, info in FineTuneJobSpec.model_fields.items()}
    same = [_unchanged(each, required) for each, required in fields.items() if each not in CHANGEABLE]
    rests = f"!has(oldSelf.status) || !has(oldSelf.status.phase) || oldSelf.status.phase in {list(RESTING)}"
    return cel(
        f"{rests} || ({' && '.join(same)})",
        f"while the job runs only {' and '.join(CHANGEABLE)} can change. Set suspend: true, and change the rest when "
        "the phase is Suspended; or delete the job and apply the new one (finished stages are taken over, not rerun)",
    )


def _unchanged(field: str, required: bool) -> str:
    """Written out: the API server cannot bound the cost of comparing optionals (`self.?x == oldSelf.?x`)."""
    now, before = f"self.spec.{field}", f"oldSelf.spec.{field}"
    both = f"(has({now}) ? has({before}) && {now} == {before} : !has({before}))"
    return f"{now} == {before}" if required else both


class Column(NamedTuple):
    name: str
    path: str
    type: str = "string"
    priority: int = 0

    def wire(self) -> Json:
        column: Json = {"name": self.name, "jsonPath": self.path, "type": self.type}
        return column | ({"priority": self.priority} if self.priority else {})


class Kind(NamedTuple):
    """One kind of the API and how kubectl shows it."""

    kind: str
    plural: str
    short: str
    spec: type[Model]
    status: type[Model]
    columns: list[Column]
    rules: list[dict[str, str]]
    scale: Json | None = None

    @property
    def crd_name(self) -> str:
        return f"{self.plural}.{GROUP}"


AGE = Column("Age", ".metadata.creationTimestamp", "date")

FINE_TUNE_JOB = Kind(
    kind="FineTuneJob",
    plural="finetunejobs",
    short="ftj",
    spec=FineTuneJobSpec,
    status=FineTuneJobStatus,
    columns=[
        Column("Phase", ".status.phase"),
        Column("Percent", ".status.progress.percent", "integer"),
        Column("Loss", ".status.progress.loss", "number"),
        Column("ETA", ".status.progress.eta"),
        Column("Recommended", ".status.recommended.format"),
        Column("Model", ".status.recommended.uri", priority=1),
        Column("Reason", ".status.conditions[?(@.type=='Failed')].reason"),
        AGE,
    ],
    rules=[NAME_FITS, NAMES_A_HOST, unchanged_while_running()],
)

MODEL_SERVER = Kind(
    kind="ModelServer",
    plural="modelservers",
    short="ms",
    spec=ModelServerSpec,
    status=ModelServerStatus,
    columns=[
        Column("Available", ".status.conditions[?(@.type=='Available')].status"),
        Column("Ready", ".status.readyReplicas", "integer"),
        Column("Format", ".status.served.format"),
        Column("Digest", ".status.served.digest", priority=1),
        Column("URL", ".status.url"),
        Column("Reason", ".status.conditions[?(@.type=='Degraded')].reason"),
        AGE,
    ],
    rules=[NAME_FITS],
    scale={
        "specReplicasPath": ".spec.replicas",
        "statusReplicasPath": ".status.replicas",
        "labelSelectorPath": ".status.selector",
    },
)

KINDS = [FINE_TUNE_JOB, MODEL_SERVER]


def structural(schema: Json, definitions: Json) -> Json:
    """Turns pydantic's JSON schema into the structural schema of Kubernetes: no $ref, no null, no defaults.

    Defaults stay out because the API server would write them into the user's spec; the descriptions name them.
    """
    if "$ref" in schema:
        target = definitions[schema["$ref"].rsplit("/", 1)[1]]
        return structural(target | {key: value for key, value in schema.items() if key != "$ref"}, definitions)
    if schema.get("x-kubernetes-int-or-string"):
        return _keep(schema, "description") | {"x-kubernetes-int-or-string": True}
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
        "x-kubernetes-validations": kind.rules,
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": model_schema(kind.spec),
            "status": model_schema(kind.status),
        },
    }
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
