"""What all models share: camelCase on the wire, unknown fields refused, conditions as Kubernetes defines them."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel


def cel(rule: str, message: str) -> dict[str, str]:
    """One validation rule in CEL, evaluated by the API server when the object is applied."""
    return {"rule": rule, "message": message}


def validations(*rules: dict[str, str]) -> dict[str, Any]:
    return {"x-kubernetes-validations": list(rules)}


class Model(BaseModel):
    """A part of a spec or a status."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)

    def wire(self) -> dict[str, Any]:
        """The JSON form, without fields that are not set."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class SecretRef(Model):
    """A Secret in the object's own namespace."""

    name: str = Field(min_length=1, max_length=253, description="Name of the Secret.")


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

S3Uri = Annotated[
    str,
    Field(
        max_length=1024,
        pattern=r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/.*)?$",
        description="s3://bucket/path in the S3-compatible store that the credentials Secret points to.",
    ),
]

Quantity = Annotated[str | int, Field(json_schema_extra={"x-kubernetes-int-or-string": True})]

Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]


class Toleration(Model):
    key: str | None = None
    operator: Literal["Exists", "Equal"] | None = None
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    toleration_seconds: int | None = None


class Resources(Model):
    """What a pod asks the scheduler for."""

    gpus: int = Field(default=1, ge=0, le=64, description="GPUs per pod; 0 runs on the CPU. Default: 1.")
    gpu_resource_name: str = Field(
        default="nvidia.com/gpu",
        max_length=253,
        description="The extended resource that stands for a GPU. Default: nvidia.com/gpu.",
    )
    requests: dict[str, Quantity] | None = Field(default=None, description="cpu, memory, ephemeral-storage requests.")
    limits: dict[str, Quantity] | None = Field(
        default=None,
        description="Limits; where only limits are given the requests equal them. On the CPU the cpu limit also sets "
        "the number of threads, so that a run can be repeated to the bit.",
    )
    node_selector: dict[str, str] | None = None
    tolerations: list[Toleration] | None = None
    runtime_class_name: str | None = Field(default=None, description="For example nvidia.")
