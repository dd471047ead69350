"""ModelServer (ms): serves an artifact, verified, behind a guarded OpenAI endpoint."""

import re
from typing import Annotated, Final

from pydantic import Field

from tuneyard_api.base import (
    ConditionList,
    ContainerResources,
    Model,
    ObjectName,
    ObjectNameOrEmpty,
    Resources,
    S3Uri,
    SecretRef,
)
from tuneyard_api.kind import AGE, NAME_FITS, Column, Kind
from tuneyard_api.kinds.engines import AUTO, engine_rules
from tuneyard_api.kinds.llamacpp import LlamaCpp
from tuneyard_api.kinds.vllm import ServedDigest, Vllm
from tuneyard_api.pod import PodOptions
from tuneyard_api.registry import ARTIFACT_FORMATS, ENGINES, STRATEGIES, OneOf, described, engine_of
from tuneyard_api.rules import Obeys, Rule, matches


class FineTuneJobRef(Model):
    """Follows a FineTuneJob of the same namespace: each release whose gates passed is rolled out."""

    name: ObjectName
    format: Annotated[str, OneOf(ARTIFACT_FORMATS, "recommended")] = Field(
        default="recommended", description="Which of its artifacts. Default: recommended."
    )


class ServedModelSource(Model):
    fine_tune_job_ref: FineTuneJobRef | None = None
    uri: S3Uri | None = None
    digest: ServedDigest | None = None
    secret_ref: SecretRef | None = Field(
        default=None, description="Store access, as in FineTuneJob. Default: the FineTuneJob's own."
    )

    @classmethod
    def rules(cls) -> tuple[Rule, ...]:
        return (
            Rule(
                "model takes exactly one of fineTuneJobRef and uri",
                lambda model: (model.fine_tune_job_ref is None) != (model.uri is None),
                cel="has(self.fineTuneJobRef) != has(self.uri)",
            ),
            Rule(
                "uri needs digest (sha256:…, in the FineTuneJob's status.artifacts), and digest needs uri",
                lambda model: (model.uri is None) == (model.digest is None),
                cel="has(self.uri) == has(self.digest)",
            ),
        )


class ApiKeySecretRef(Model):
    name: ObjectName
    key: Annotated[
        str,
        Obeys(matches(r"[-._a-zA-Z0-9]+", "no Secret can have this key: write letters, digits, '-', '_' and '.'")),
    ] = Field(default="api-key", min_length=1, max_length=253, description="Key in the Secret. Default: api-key.")


class Auth(Model):
    api_key_secret_ref: ApiKeySecretRef


Origin = Annotated[
    str,
    Field(max_length=255),
    Obeys(
        matches(
            r"\*|https?://[a-z0-9]([-.a-z0-9]*[a-z0-9])?(:[0-9]{1,5})?",
            "not an origin: write '*' for all, or scheme, host and port as browsers send them, such as "
            "https://app.example.com",
            cel=True,
        )
    ),
]


class Cors(Model):
    allowed_origins: list[Origin] = Field(
        min_length=1,
        max_length=32,
        description="https://app.example.com, or '*' for all. Only where keys are safe there.",
    )


class Rollout(Model):
    strategy: Annotated[str, OneOf(STRATEGIES)] = Field(
        default="Auto", description=f"{described(STRATEGIES)} Default: Auto."
    )
    min_available: int | None = Field(
        default=None,
        ge=0,
        le=1000,
        description="Replicas of the old revision that Auto leaves when it makes room for the new one. With a cluster "
        "autoscaler write the number of replicas: the new pods then wait for a node. Default: half of replicas, "
        "rounded down, which is 0 of 1.",
    )
    progress_deadline_seconds: int = Field(
        default=900,
        ge=10,
        le=86400,
        description="A revision that is not ready so long after its pods were scheduled is rolled back. Default: 900.",
    )

    @classmethod
    def rules(cls) -> tuple[Rule, ...]:
        return (
            Rule(
                "Recreate takes all replicas down: leave minAvailable out, or write strategy: Auto",
                lambda rollout: rollout.strategy != "Recreate" or not rollout.min_available,
                cel="!has(self.strategy) || self.strategy != 'Recreate' || !has(self.minAvailable) || "
                "self.minAvailable == 0",
                field="minAvailable",
            ),
        )


class Containers(Model):
    """The containers beside the engine, whose own resources are spec.resources."""

    fetch: ContainerResources = Field(
        default=ContainerResources(),
        description="Downloads and verifies the artifact before the engine starts. Defaults, each where neither "
        "request nor limit is given: requests cpu 100m, memory 256Mi, ephemeral-storage 64Mi; limit memory 2Gi.",
    )
    proxy: ContainerResources = Field(
        default=ContainerResources(),
        description="The endpoint in front of the engine. Defaults, each where neither request nor limit is given: "
        "requests cpu 10m, memory 64Mi, ephemeral-storage 64Mi; limit memory 128Mi.",
    )


class ModelServerSpec(Model):
    """What is served, by which engine, and how a new release is rolled out; model is enough."""

    model: ServedModelSource
    engine: Annotated[str, OneOf(ENGINES, AUTO)] = Field(
        default=AUTO,
        description=f"{described(ENGINES)} auto: by the format of the artifact; vllm where model.uri names it. "
        "Default: auto.",
    )
    replicas: int = Field(default=1, ge=0, le=1000, description="Default: 1.")
    vllm: Vllm = Vllm()
    llamacpp: LlamaCpp = LlamaCpp()
    rollout: Rollout = Rollout()
    auth: Auth | None = Field(default=None, description="Without it, everybody who can reach the endpoint may use it.")
    cors: Cors | None = Field(
        default=None, description="Web pages that may call the API from a browser. Default: none."
    )
    pod: PodOptions = PodOptions()
    resources: Resources = Field(default=Resources(), description="Of the engine's container, and where pods may run.")
    containers: Containers = Containers()
    priority_class_name: ObjectNameOrEmpty | None = None

    @classmethod
    def rules(cls) -> tuple[Rule, ...]:
        return (
            Rule(
                "more GPUs than the pod has: write at most resources.gpus",
                lambda spec: not spec.resources.gpus or spec.vllm.gpus_needed <= spec.resources.gpus,
                field="vllm.tensorParallelSize",
            ),
            *engine_rules(),
        )

    def engine_for(self, artifact_format: str | None) -> str:
        """The engine that serves an artifact of this format; None: the format is not known."""
        return engine_of(artifact_format) if self.engine == AUTO else self.engine


class ServedRevision(Model):
    revision: str
    digest: str
    format: str | None = None
    uri: str | None = None


class Release(Model):
    uri: str
    digest: str
    format: str | None = None
    secret_ref: SecretRef | None = None


class FailedRevision(Model):
    revision: str
    digest: str
    reason: str
    message: str


class RolloutStatus(Model):
    """What the rollout strategy remembers between two reconciles; one that needs nothing remembers nothing."""

    revision: str = Field(description="The revision that is rolled out. The state is dropped when it changes.")
    phase: str = Field(description="Defined by the strategy.")
    step: int | None = Field(default=None, ge=0, description="The step within the phase, where it has several.")
    since: str | None = Field(default=None, description="When the phase or step began.")


class SpeculativeStatus(Model):
    """How speculative decoding goes."""

    acceptance: float = Field(
        description="Share of the guessed tokens that the model has verified, since its pods have started."
    )


class ModelServerStatus(Model):
    """What is served, and where the rollout is."""

    observed_generation: int = 0
    url: str | None = None
    release: Release | None = Field(
        default=None,
        description="The artifact that is rolled out. With fineTuneJobRef the last one whose gates passed, which stays "
        "when the FineTuneJob trains again or is deleted.",
    )
    served: ServedRevision | None = None
    previous: ServedRevision | None = None
    failed: FailedRevision | None = Field(
        default=None, description="The newest revision that was rolled back, and why."
    )
    attempt: str | None = Field(
        default=None,
        description="A hash of spec.rollout and of the annotation tuneyard.dev/retry: with another one a revision that "
        "was rolled back is tried again.",
    )
    reason: str | None = Field(
        default=None, description="Why it is not ready or not up to date, in one word; left out while all is well."
    )
    rollout: RolloutStatus | None = Field(
        default=None, description="Where the rollout is, for a strategy that has several phases."
    )
    speculative: SpeculativeStatus | None = Field(
        default=None, description="With vllm.speculative, once tokens were guessed. Read every minute."
    )
    replicas: int = 0
    ready_replicas: int = 0
    selector: str | None = None
    conditions: ConditionList = []


# Not in CEL: the status of a ModelServer of another name, stored before this rule, could no longer be written.
NAMES_A_SERVICE: Final = Rule(
    "metadata.name is the name of its Service, too: write small letters, digits and hyphens, with a letter in front",
    lambda document: re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", document["metadata"]["name"]) is not None,
    field="metadata.name",
)

MODEL_SERVER: Final = Kind(
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
        Column("Reason", ".status.reason"),
        AGE,
    ],
    rules=[NAME_FITS, NAMES_A_SERVICE],
    scale={
        "specReplicasPath": ".spec.replicas",
        "statusReplicasPath": ".status.replicas",
        "labelSelectorPath": ".status.selector",
    },
)
