"""What all models share: camelCase on the wire, unknown fields refused, conditions as Kubernetes defines them."""

from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ValidationError,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_core import CoreSchema, InitErrorDetails

from tuneyard_api.quantity import parse_quantity
from tuneyard_api.rules import Obeys, Rule, check, matches, validations, violated


class Model(BaseModel):
    """A part of a spec or a status. Types are not converted: the API server does not convert them either."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        defer_build=True,  # until the first use: building all at import would delay each start of the operator
    )

    @classmethod
    def rules(cls) -> tuple[Rule, ...]:
        """What its fields must be like together."""
        return ()

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        if rules := self.rules():
            check(type(self).__name__, self, rules)
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        json_schema = handler(schema)
        handler.resolve_ref_schema(json_schema).update(validations(cls.rules()))
        return json_schema

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """The model itself: it is frozen. Each validation copies the defaults that it uses."""
        return self

    def wire(self) -> dict[str, Any]:
        """The JSON form, without fields that are not set."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


# The names of most objects (RFC 1123).
_NAME: Final = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_NAME_MESSAGE: Final = (
    "no object can have this name: write small letters, digits, hyphens and dots, with a letter or a digit at both ends"
)
ObjectName = Annotated[str, Field(min_length=1, max_length=253), Obeys(matches(_NAME, _NAME_MESSAGE))]
# The empty name is as good as none: templates write it.
ObjectNameOrEmpty = Annotated[str, Obeys(matches(f"({_NAME})?", _NAME_MESSAGE))]


class SecretRef(Model):
    """A Secret in the object's own namespace."""

    name: ObjectName = Field(description="Name of the Secret.")


class Condition(Model):
    """A standard Kubernetes condition (metav1.Condition)."""

    type: str = Field(max_length=316)
    status: Literal["True", "False", "Unknown"]
    reason: str = Field(max_length=1024)
    message: str = Field(default="", max_length=32768)
    observed_generation: int = 0
    last_transition_time: Annotated[str, Field(json_schema_extra={"format": "date-time"})]


ConditionList = Annotated[
    list[Condition],
    Field(json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}),
]

S3_BUCKET: Final = r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/.*)?"
S3Uri = Annotated[
    str,
    Field(
        max_length=1024,
        description="s3://bucket/path in the S3-compatible store that the credentials Secret points to.",
    ),
    Obeys(
        matches(
            S3_BUCKET,
            "not a URI of an S3 bucket: write s3://bucket/path, with a bucket of 3 to 63 small letters, digits, dots "
            "and hyphens. What is on a disk or on a model hub is uploaded first: tuneyard push",
            cel=True,
        ),
        # Not in CEL: what was stored before this rule could no longer be written.
        Rule(
            "a path in a bucket has no '.' or '..': write the path that is meant",
            lambda uri: not {".", ".."} & set(uri.split("/")),
        ),
    ),
]

Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]


def _check_quantity(value: Any) -> str | int:
    """Raises ValueError where the API server would refuse a pod that has it."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise violated("not a quantity: write a number such as 2, or text such as '500m' or 16Gi")
    try:
        number = parse_quantity(value)
    except ValueError as error:
        raise violated("not a quantity: write a number such as 2, 500m or 16Gi") from error
    if number < 0:
        raise violated("a pod cannot ask for less than nothing: write 0 or more")
    quantity: str | int = value
    return quantity


Quantity = Annotated[
    str | int, BeforeValidator(_check_quantity), Field(json_schema_extra={"x-kubernetes-int-or-string": True})
]

# https://kubernetes.io/docs/concepts/configuration/manage-resources-containers/
STANDARD_RESOURCES: Final = ("cpu", "memory", "ephemeral-storage")
EXTENDED_RESOURCE: Final = matches(
    r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?",
    "not an extended resource: write a domain and a name, such as nvidia.com/gpu",
)


def _check_amounts(amounts: dict[str, str | int]) -> dict[str, str | int]:
    """Raises ValidationError for each name that no pod may ask for."""
    errors = [
        InitErrorDetails(
            type=violated(f"there is no such resource: write {', '.join(STANDARD_RESOURCES)} or domain/name"),
            loc=(name,),
            input=quantity,
        )
        for name, quantity in amounts.items()
        if not (name in STANDARD_RESOURCES or name.startswith("hugepages-") or EXTENDED_RESOURCE.accepts(name))
    ]
    if errors:
        raise ValidationError.from_exception_data("resources", errors)
    return amounts


Amounts = Annotated[dict[str, Quantity], AfterValidator(_check_amounts)]


class Toleration(Model):
    key: str | None = None
    operator: Literal["Exists", "Equal"] | None = None
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    toleration_seconds: int | None = None

    @classmethod
    def rules(cls) -> tuple[Rule, ...]:
        return (
            Rule(
                "a toleration without a key tolerates every taint: write operator: Exists with it, or a key",
                lambda toleration: bool(toleration.key) or toleration.operator == "Exists",
                field="key",
            ),
            Rule(
                "operator Exists takes no value: leave it out, or write operator: Equal",
                lambda toleration: toleration.operator != "Exists" or not toleration.value,
                field="value",
            ),
            Rule(
                "only pods that a taint evicts stay for some seconds: write effect: NoExecute, or leave this out",
                lambda toleration: toleration.toleration_seconds is None or toleration.effect == "NoExecute",
                field="tolerationSeconds",
            ),
        )


# An object of Kubernetes' own API: the API server checks it when a pod has it.
Passed = Annotated[dict[str, Any], Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True})]


class TopologySpreadConstraint(Model):
    """Spreads the pods of the same stage, or of the same revision of a server."""

    topology_key: Annotated[str, Field(min_length=1, max_length=316)] = Field(
        description="A label of nodes, for example kubernetes.io/hostname or topology.kubernetes.io/zone."
    )
    max_skew: int = Field(default=1, ge=1, description="By how many pods two topologies may differ. Default: 1.")
    when_unsatisfiable: Literal["DoNotSchedule", "ScheduleAnyway"] = Field(
        default="ScheduleAnyway", description="Default: ScheduleAnyway."
    )


class ContainerResources(Model):
    """What a container asks the scheduler for."""

    requests: Amounts | None = Field(default=None, description="cpu, memory, ephemeral-storage requests.")
    limits: Amounts | None = Field(
        default=None,
        description="Limits. Requests that are not given equal them. A limit of ephemeral-storage also counts what the "
        "pod writes to its volumes: the model, for example.",
    )

    @model_validator(mode="after")
    def _check_requests(self) -> Self:
        """A pod that requests more than its limit is refused when it is created."""
        limits, requests = self.limits or {}, self.requests or {}
        errors = [
            InitErrorDetails(
                type=violated(f"{quantity} is more than the limit: write at most {limits[name]}, or raise the limit"),
                loc=("requests", name),
                input=quantity,
            )
            for name, quantity in requests.items()
            if name in limits and parse_quantity(quantity) > parse_quantity(limits[name])
        ]
        if errors:
            raise ValidationError.from_exception_data("Resources", errors)
        return self


class Resources(ContainerResources):
    """What a pod asks the scheduler for."""

    gpus: int = Field(default=1, ge=0, le=64, description="GPUs per pod; 0 runs on the CPU. Default: 1.")
    gpu_resource_name: Annotated[str, Obeys(EXTENDED_RESOURCE)] = Field(
        default="nvidia.com/gpu",
        max_length=253,
        description="The extended resource of a GPU. Default: nvidia.com/gpu.",
    )
    requests: Amounts | None = Field(
        default=None,
        description="cpu, memory, ephemeral-storage requests. Default, where there is no limit either: cpu 500m, "
        "memory 1Gi.",
    )
    limits: Amounts | None = Field(
        default=None,
        description="Limits. Requests that are not given equal them. On the CPU the cpu limit also sets the number of "
        "threads, so that runs are reproducible to the bit. A limit of ephemeral-storage also counts what the pod "
        "writes to its volumes: models, data and checkpoints.",
    )
    node_selector: dict[str, str] | None = None
    tolerations: list[Toleration] | None = None
    affinity: Passed | None = Field(
        default=None, description="nodeAffinity, podAffinity and podAntiAffinity, as in a pod's spec."
    )
    topology_spread_constraints: list[TopologySpreadConstraint] | None = Field(default=None, max_length=16)
    runtime_class_name: ObjectNameOrEmpty | None = Field(default=None, description="For example nvidia.")
