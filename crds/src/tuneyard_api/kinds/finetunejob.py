"""FineTuneJob (ftj): one declarative chain from data to a published, proven model."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails

from tuneyard_api.base import Model, ObjectName, ObjectNameOrEmpty, Resources, S3Uri, SecretRef
from tuneyard_api.kind import AGE, NAME_FITS, Column, Kind
from tuneyard_api.kinds.dataset import Dataset
from tuneyard_api.kinds.export import Export
from tuneyard_api.kinds.finetunejob_status import FineTuneJobStatus
from tuneyard_api.kinds.training import NO_TRAINING, Training
from tuneyard_api.pod import PodOptions
from tuneyard_api.registry import ARTIFACT_FORMATS, BASE, GATES, GENERAL_METRIC, METRICS, TUNED, OneOf, described
from tuneyard_api.rules import Rule

# These fields say when a job runs and how long it is kept, not what it does: they may change at any time.
CHANGEABLE: Final = ("suspend", "ttlSecondsAfterFinished", "onSpecChange")
REPLACE: Final = "Replace"


class BaseModelSource(Model):
    """The model that is tuned."""

    uri: S3Uri
    chat_template: str | None = Field(
        default=None, max_length=65536, description="A Jinja chat template; replaces the one in the model directory."
    )


def _with_bounds(schema: dict[str, Any]) -> None:
    """Adds a field for each entry of GATES to the schema of a gate."""
    for name, bound in GATES.items():
        schema["properties"][name] = {"type": "number", "exclusiveMinimum": 0, "description": bound.description}
    schema.pop("additionalProperties", None)


class Gate(Model):
    """A metric and exactly one bound on it, for example {against: base, maxRatio: 1.0}."""

    model_config = Model.model_config | {"extra": "allow", "json_schema_extra": _with_bounds}
    __pydantic_extra__: dict[str, float]

    metric: Annotated[str, OneOf(METRICS)] = Field(
        default="perplexity", description=f"{described(METRICS)} Default: perplexity."
    )
    against: Literal["base", "tuned"] = Field(
        description="base: the tuned model against the base model, or, where nothing is tuned, each quantized artifact "
        "against it. tuned: each quantized artifact against the tuned model."
    )

    @model_validator(mode="after")
    def _check_bounds(self) -> Self:
        errors = [
            InitErrorDetails(type="extra_forbidden", loc=(name,), input=value)
            if name not in GATES
            else InitErrorDetails(type="greater_than", loc=(name,), input=value, ctx={"gt": 0})
            for name, value in self.__pydantic_extra__.items()
            if name not in GATES or value <= 0
        ]
        if errors:
            raise ValidationError.from_exception_data("Gate", errors)
        return self

    @classmethod
    def rules(cls) -> tuple[Rule, ...]:
        return (
            Rule(
                f"a gate takes exactly one of {', '.join(GATES)}",
                lambda gate: len(gate.__pydantic_extra__) == 1,
                cel=" + ".join(f"(has(self.{name}) ? 1 : 0)" for name in GATES) + " == 1",
            ),
        )

    @property
    def bound(self) -> str:
        """The name of the bound, for example maxRatio."""
        return next(iter(self.__pydantic_extra__))

    @property
    def value(self) -> float:
        """The number that goes with the bound."""
        return float(self.__pydantic_extra__[self.bound])


def gate(against: str, metric: str = "perplexity", **bound: float) -> Gate:
    """A gate on a metric, for example gate("base", maxRatio=1.0)."""
    return Gate.model_validate({"metric": metric, "against": against, **bound})


TUNED_GATES: Final = (gate(BASE, maxRatio=1.0), gate(TUNED, maxRatio=1.1))
UNTUNED_GATES: Final = (gate(BASE, maxRatio=1.1),)
# Where there are replay rows.
GENERAL_GATE: Final = gate(BASE, GENERAL_METRIC, maxRatio=1.1)


class Evaluation(Model):
    max_rows: int = Field(default=200, ge=1, description="Held-out rows that are scored. Default: 200.")
    gates: list[Gate] | None = Field(
        default=None,
        max_length=16,
        description="Default: tuned no worse than base, each quantized artifact within 10 % of tuned; where nothing is "
        "tuned, within 10 % of base. With dataset.replay also: the tuned model's generalPerplexity within 10 % of "
        "base's.",
    )
    on_gate_failure: Literal["Block", "Warn"] = Field(
        default="Block", description="Block fails the job and publishes nothing. Default: Block."
    )


class Output(Model):
    uri: S3Uri
    keep: int | None = Field(
        default=None,
        ge=1,
        le=10000,
        description="Newest releases below uri that `tuneyard gc` keeps, beside those in use. It deletes nothing by "
        "itself. Default: all.",
    )
    secret_ref: SecretRef | None = Field(
        default=None,
        description="Secret with the store's access: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, if needed, "
        "AWS_ENDPOINT_URL, AWS_REGION, AWS_SESSION_TOKEN, AWS_S3_ADDRESSING_STYLE and ca.crt (PEM). Without the two "
        "keys, or without a Secret, the pods use the identity of pod.serviceAccountName. Used for model, data and "
        "output.",
    )


class RetryPolicy(Model):
    backoff_limit: int = Field(
        default=3,
        ge=0,
        le=100,
        description="Retries of a stage that crashed; with several nodes, of each node. Preemption is not charged. "
        "Default: 3.",
    )


class TrainingResources(Resources):
    """What the train stage's pods ask for."""

    nodes: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Pods that train together, each with these resources. effectiveBatchSize is divided among all "
        "of them, so more nodes make a step faster, not larger. Default: 1.",
    )

    @property
    def devices(self) -> int:
        """Processes that train: one for each GPU of all pods, or one for each pod where there is none."""
        return self.nodes * max(1, self.gpus)


class Fit(Model):
    """What happens when the training needs more memory than a GPU has, by the estimate of prepare (status.fit)."""

    policy: Literal["Warn", "Enforce"] = Field(
        default="Warn", description="Enforce fails the job before a GPU is queued (Unfit). Default: Warn."
    )
    gpu_memory_gib: float | None = Field(
        default=None,
        alias="gpuMemoryGiB",
        gt=0,
        le=4096,
        description="Memory of one GPU. Default: that of the GPU that resources.gpuResourceName or "
        "resources.nodeSelector names.",
    )


class FineTuneJobSpec(Model):
    """What the user asks for; model, dataset.train and output are enough."""

    model: BaseModelSource
    dataset: Dataset = Dataset()
    training: Training = Training()
    export: Export = Export()
    evaluation: Evaluation = Evaluation()
    output: Output
    resources: TrainingResources = Field(
        default=TrainingResources(),
        description="Of the pods of the train stage. All other stages run on the CPU, in one pod.",
    )
    fit: Fit = Fit()
    pod: PodOptions = Field(default=PodOptions(), description="Of the pods of all stages.")
    queue_name: Annotated[ObjectName, Field(max_length=63)] | None = Field(
        default=None,
        description="A LocalQueue of Kueue in the job's namespace. The train stage waits there for quota.",
    )
    priority_class_name: ObjectNameOrEmpty | None = None
    retry_policy: RetryPolicy = RetryPolicy()
    suspend: bool = Field(
        default=False,
        description="true stops the job: a running stage writes a checkpoint and exits, and no other stage starts. "
        "false resumes it. May change at any time. Default: false.",
    )
    ttl_seconds_after_finished: int | None = Field(
        default=None,
        ge=0,
        le=2147483647,
        description="Seconds after which a finished FineTuneJob is deleted; its artifacts stay. May change at any "
        "time. Default: it is kept.",
    )
    on_spec_change: Literal["Refuse", "Replace"] = Field(
        default="Refuse",
        description="What happens to a change of the spec while a stage runs. Refuse: the API server rejects it. "
        "Replace: the running stage writes a checkpoint and exits, and a new run begins, which reuses every stage that "
        "the change does not affect; for GitOps. May change at any time. Default: Refuse.",
    )
    rerun: str | None = Field(
        default=None,
        max_length=253,
        description="Any text, such as a date. Another text asks for another run, which reads the data again: "
        "where the data is the same, every stage is reused.",
    )

    @property
    def trains(self) -> bool:
        """Whether the model is tuned; else it is exported and evaluated as it is."""
        return self.training.method != NO_TRAINING

    @property
    def rows(self) -> Dataset:
        """spec.dataset; where it has no training rows, those of export.calibration are in their place."""
        source = self.export.calibration.source
        return self.dataset.model_copy(update={"train": [source]}) if source else self.dataset

    @property
    def evaluates(self) -> bool:
        """Whether there are rows to hold out."""
        return bool(self.rows.train or self.rows.validation.uri)

    @property
    def gates(self) -> list[Gate]:
        """The gates of the evaluation, or the default ones."""
        if self.evaluation.gates is not None:
            return self.evaluation.gates
        if not self.evaluates:
            return []
        general = [GENERAL_GATE] if self.dataset.replay else []
        return [*(TUNED_GATES if self.trains else UNTUNED_GATES), *general]

    @property
    def merged_subject(self) -> str:
        """How measurements and gates name the merged model."""
        return TUNED if self.trains else BASE

    @classmethod
    def rules(cls) -> tuple[Rule, ...]:
        return (
            Rule(
                "the rows of a step are divided among all GPUs: write a multiple of resources.nodes x resources.gpus; "
                "where training.microBatchSize is set, of that many times it",
                lambda spec: spec.training.effective_batch_size
                % (spec.resources.devices * (spec.training.given_micro_batch_size or 1))
                == 0,
                field="training.effectiveBatchSize",
            ),
            *_ROWS_RULES,
        )


_ROWS_RULES: Final = (
    Rule(
        "is required: write where the training rows are. To export and evaluate the model as it is, write "
        f"training.method: {NO_TRAINING}",
        lambda spec: not spec.trains or bool(spec.dataset.train),
        cel="(has(self.dataset) && has(self.dataset.train)) || (has(self.training) && has(self.training.method) && "
        f"self.training.method == '{NO_TRAINING}')",
        field="dataset.train",
    ),
    Rule(
        "the rows of dataset.train are the calibration rows: leave uri out, or dataset.train where nothing is tuned",
        lambda spec: not (spec.export.calibration.uri and spec.dataset.train),
        cel="!(has(self.dataset) && has(self.dataset.train) && has(self.export) && has(self.export.calibration) && "
        "has(self.export.calibration.uri))",
        field="export.calibration.uri",
    ),
    Rule(
        f"{', '.join(name for name, entry in ARTIFACT_FORMATS.items() if entry.calibrated)} are made with rows: write "
        "export.calibration.uri, or other formats",
        lambda spec: bool(spec.rows.train) or not any(ARTIFACT_FORMATS[name].calibrated for name in spec.export.levels),
        field="export.formats",
    ),
    Rule(
        "gates are judged on held-out rows, which this job does not have: write dataset.validation.uri or "
        "export.calibration.uri, or leave the gates out",
        lambda spec: spec.evaluates or not spec.evaluation.gates,
        field="evaluation.gates",
    ),
    Rule(
        f"{GENERAL_METRIC} is measured on held-out rows of dataset.replay, which this job does not have: write "
        "dataset.replay, or leave the gate out",
        lambda spec: spec.dataset.replay is not None or all(gate.metric != GENERAL_METRIC for gate in spec.gates),
        field="evaluation.gates",
    ),
    Rule(
        "rows are replayed while a model is tuned with chats or text: leave it out where nothing is tuned, and where "
        "training.dpo tunes with pairs of answers",
        lambda spec: spec.dataset.replay is None or (spec.trains and spec.training.dpo is None),
        field="dataset.replay",
    ),
    Rule(
        f"nothing is tuned: write against: {BASE}, which is then about each quantized artifact",
        lambda spec: spec.trains or all(gate.against == BASE for gate in spec.gates),
        field="evaluation.gates",
    ),
)


# The nodes of a training find each other by host names that are made of the job's name.
NAMES_A_HOST: Final = Rule(
    "with several nodes metadata.name is part of host names: it begins with a letter, and has no dots",
    lambda document: _nodes(document) == 1 or re.fullmatch("[a-z][-a-z0-9]*", document["metadata"]["name"]) is not None,
    cel="!has(self.spec.resources) || !has(self.spec.resources.nodes) || self.spec.resources.nodes == 1 || "
    "self.metadata.name.matches('^[a-z][-a-z0-9]*$')",
    field="metadata.name",
)


def _nodes(document: Mapping[str, Any]) -> Any:
    """As it is written, which may be nonsense."""
    resources = document["spec"].get("resources")
    return resources.get("nodes", 1) if isinstance(resources, dict) else 1


# The phases in which no stage runs.
RESTING: Final = ("Pending", "Suspended", "Succeeded", "Failed")


def unchanged_while_running() -> dict[str, str]:
    """A rule that rejects changes of the spec, but for the changeable fields, unless the job rests or is replaced."""
    fields = {info.alias or name: info.is_required() for name, info in FineTuneJobSpec.model_fields.items()}
    same = [_unchanged(field, required) for field, required in fields.items() if field not in CHANGEABLE]
    rests = f"!has(oldSelf.status) || !has(oldSelf.status.phase) || oldSelf.status.phase in {list(RESTING)}"
    replaces = f"(has(self.spec.onSpecChange) && self.spec.onSpecChange == '{REPLACE}')"
    message = (
        f"while the job runs only {', '.join(CHANGEABLE[:-1])} and {CHANGEABLE[-1]} can change. Set onSpecChange: "
        f"{REPLACE} with the change: then the running stage writes a checkpoint, and a new run begins. Or set suspend: "
        "true, and change the rest when the phase is Suspended. Finished stages are reused in both cases"
    )
    return {"rule": f"{rests} || {replaces} || ({' && '.join(same)})", "message": message}


def _unchanged(field: str, required: bool) -> str:
    """Written out: the API server cannot bound the cost of comparing optionals (`self.?x == oldSelf.?x`)."""
    now, before = f"self.spec.{field}", f"oldSelf.spec.{field}"
    both = f"(has({now}) ? has({before}) && {now} == {before} : !has({before}))"
    return f"{now} == {before}" if required else both


FINE_TUNE_JOB: Final = Kind(
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
        Column("Rows", ".status.dataset.rowsIn", "integer", priority=1),
        Column("Kept", ".status.dataset.rowsKept", "integer", priority=1),
        Column("Reason", ".status.reason"),
        AGE,
    ],
    rules=[NAME_FITS, NAMES_A_HOST],
    transitions=(unchanged_while_running(),),
)
