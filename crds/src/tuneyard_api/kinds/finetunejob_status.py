"""The status of a FineTuneJob, which the operator writes."""

from typing import Annotated, Literal

from pydantic import Field

from tuneyard_api.base import ConditionList, Digest, Model
from tuneyard_api.names import Stage

StageState = Literal["Pending", "Running", "Succeeded", "Adopted", "Failed"]
Phase = Literal[
    "Pending", "Preparing", "Training", "Exporting", "Evaluating", "Publishing", "Suspended", "Succeeded", "Failed"
]


class LastFailure(Model):
    pod: str
    created_at: str = Field(description="When that pod was created.")
    reason: str
    message: str = ""


class StageStatus(Model):
    name: Stage
    state: StageState
    job: str | None = Field(default=None, description="The child Job.")
    digest: str | None = None
    adopted: bool | None = Field(default=None, description="True when an earlier run's output is reused.")
    restarts: int | None = Field(default=None, description="Pods that ended without finishing the stage.")
    reruns: int | None = Field(
        default=None,
        description="Times that the stage was run again because its pod was gone before an operator saw its result.",
    )
    out_of_memory: int | None = Field(
        default=None, description="Pods that were killed because they used more memory than their limit."
    )
    started_at: str | None = None
    finished_at: str | None = None
    ran_seconds: int | None = Field(
        default=None, description="How long earlier Jobs of the stage ran, before it was suspended or restarted."
    )
    message: str | None = None
    last_failure: LastFailure | None = Field(
        default=None, description="How the last pod that did not finish the stage ended. The pod may have been deleted."
    )


class Progress(Model):
    """Progress of the running stage."""

    percent: int = Field(ge=0, le=100)
    step: int | None = None
    steps: int | None = None
    loss: float | None = None
    validation_loss: float | None = Field(default=None, description="Of the last validation, in nats per token.")
    tokens_per_second: float | None = None
    eta: str | None = Field(default=None, description="For example 4m10s.")
    message: str | None = None
    tracking_url: str | None = Field(
        default=None, alias="trackingURL", description="Of the run in the server that spec.training.tracking names."
    )


class AnswersStatus(Model):
    """The assistant's answers in the kept rows. Each trained one includes the token that ends it."""

    given: int = Field(description="Without those of weight 0.")
    trained: int
    left_out: dict[str, int] = Field(
        default={},
        description="Answers that are not trained, by reason: notShown (the chat template leaves the answer out), "
        "askedDifferently (it shows the answer elsewhere than behind its generation prompt), truncated.",
    )
    cut_short: int = Field(default=0, description="Trained ones that lost their end to training.maxLength.")

    @property
    def text(self) -> str:
        """For example: 7 of 9 answers trained (left out: 2 notShown)."""
        left_out = ", ".join(f"{count} {reason}" for reason, count in sorted(self.left_out.items()))
        notes = [f"left out: {left_out}" if left_out else "", f"{self.cut_short} cut short" if self.cut_short else ""]
        said = "; ".join(filter(None, notes))
        return f"{self.trained} of {self.given} answers trained" + (f" ({said})" if said else "")


class ReplayStatus(Model):
    """The general rows that are trained with the job's own."""

    uri: str
    rows: int = Field(description="Rows that are trained.")
    tokens: int = Field(description="Trained tokens in them.")
    fraction: float = Field(description="Their share of all trained tokens.")
    held_out: int = Field(description="Rows that evaluate measures forgetting on.")

    @property
    def text(self) -> str:
        """For example: 96 rows of builtin://general, 15.0 % of the trained tokens; 49 held out."""
        share = f"{100 * self.fraction:.1f} % of the trained tokens"
        return f"{self.rows} rows of {self.uri}, {share}; {self.held_out} held out"


class DatasetStatus(Model):
    rows_in: int
    rows_kept: int
    dropped: dict[str, int] = Field(default={}, description="Rows by the reason for which they were dropped.")
    changed: dict[str, int] = Field(
        default={}, description="Rows that cleaning has changed or found something in, by what was done."
    )
    tokens: int
    answers: AnswersStatus | None = None
    replay: ReplayStatus | None = None
    digest: str
    report_uri: str | None = Field(default=None, alias="reportURI")


class FitStatus(Model):
    """GPU memory that the training needs, estimated by formula before a GPU is queued. See docs/sizing.md."""

    verdict: Literal["Fits", "Tight", "DoesNotFit", "Unknown"] = Field(
        description="Tight: less than a tenth is left. Unknown: it is not known how much memory a GPU has."
    )
    required_gib: float = Field(alias="requiredGiB", description="Of each GPU, or of the pod where there is none.")
    available_gib: float | None = Field(default=None, alias="availableGiB")
    device: str = Field(description="What the memory is compared with, for example nvidia-l4.")
    micro_batch_size: int | None = Field(default=None, description="Rows per forward pass that it is estimated for.")
    parts: dict[str, float] = Field(description="GiB of each part: weights, adapter, gradients, optimizer, ...")
    advice: str | None = None

    @property
    def text(self) -> str:
        """For example: 14.2 of 22.5 GiB (nvidia-l4): Fits."""
        available = f" of {self.available_gib:g}" if self.available_gib is not None else ""
        return f"{self.required_gib:g}{available} GiB ({self.device}): {self.verdict}"


class CurvePoint(Model):
    """One validation of a training run. Losses are in nats per trained token, or per pair of answers."""

    step: int
    loss: float | None = Field(default=None, description="Mean of the training steps since the validation before.")
    validation_loss: float
    preference_accuracy: float | None = Field(
        default=None, description="Of pairs: the share whose chosen answer the model prefers, more than the base does."
    )


class MemoryRung(Model):
    """What a run has changed because its memory did not suffice; the rows of a step stay the same."""

    change: str
    cause: str


class SpikeRow(Model):
    """A row of a step whose loss stood out."""

    row: int = Field(description="Its number among the prepared training rows, from 0.")
    loss: float = Field(description="In nats per trained token.")


class LossSpike(Model):
    """A step whose loss stood out from those before it."""

    step: int
    loss: float
    usual: float = Field(description="Median loss of the steps before it.")
    rows: list[SpikeRow] = Field(description="The rows of the step with the highest loss.")


class MlflowStatus(Model):
    """The run in the MLflow server that spec.training.tracking names."""

    url: str | None = Field(default=None, description="Of the run's page; absent: the server was never reached.")
    run_id: str | None = Field(default=None, alias="runID")
    lost: int = Field(default=0, description="Values that the server has not got.")
    message: str | None = Field(default=None, description="Why it has not got them.")


class TrainingStatus(Model):
    """The course of the training."""

    steps: int = Field(description="Optimizer steps that were done.")
    kept_step: int = Field(description="The step whose weights are exported.")
    micro_batch_size: int | None = Field(default=None, description="Rows per forward pass and device, at the end.")
    stopped_early: bool = False
    size_bytes: int | None = Field(default=None, description="Of the adapter, or of the model of a full tuning.")
    loss: float | None = Field(default=None, description="Mean over the last steps, in nats per token.")
    verdict: str | None = Field(default=None, description="What the curve says about the length of the run.")
    curve: list[CurvePoint] = Field(default=[], description="Some of the validations; the release has all.")
    rungs: list[MemoryRung] = Field(
        default=[], description="What the run did, one after the other, because its memory did not suffice."
    )
    spikes: list[LossSpike] = Field(default=[], description="Steps whose loss stood out, the first few.")
    tensorboard_uri: str | None = Field(
        default=None, alias="tensorboardURI", description="Where the event files for TensorBoard lie."
    )
    mlflow: MlflowStatus | None = Field(default=None, description="Absent: spec.training.tracking names no server.")


class Fidelity(Model):
    """How far the logits of a quantized model are from those of the merged model, on calibration rows."""

    kl: float = Field(description="Mean KL divergence per token, in nats.")
    changed_top1: float = Field(alias="changedTop1", description="Share of tokens whose most likely token changed.")
    logits_error: float = Field(description="Norm of the difference of the logits over the norm of the logits.")


class Artifact(Model):
    format: str
    uri: str
    digest: Digest
    size_bytes: int
    perplexity: float | None = None
    memory_bytes: int | None = Field(default=None, description="The weights in memory after loading.")
    seconds_to_first_token: float | None = Field(
        default=None, description="Of one request alone, in the evaluate stage."
    )
    tokens_per_second: float | None = Field(default=None, description="Of one request alone, in the evaluate stage.")
    tokens_per_second_together: float | None = Field(
        default=None, description="Of 8 requests at once, all of them together, in the evaluate stage."
    )
    kl: float | None = Field(
        default=None, description="Mean KL divergence from the merged model on held-out answers, in nats per token."
    )
    changed_top1: float | None = Field(
        default=None,
        alias="changedTop1",
        description="Share of the tokens of held-out answers whose most likely token is not the merged model's.",
    )
    end_probability: float | None = Field(
        default=None, description="Mean probability of the token that ends an answer, where held-out answers end."
    )
    fidelity: Fidelity | None = Field(default=None, description="Absent: the artifact is the merged model.")


class Recommended(Model):
    format: str
    uri: str
    digest: Digest
    reason: str


class Measurement(Model):
    """One figure of one model."""

    subject: str = Field(description="base, tuned, or an artifact's format.")
    metric: str
    value: float


class GateStatus(Model):
    metric: str
    against: str
    subject: str
    value: float
    limit: float
    passed: bool


class EvaluationStatus(Model):
    measurements: list[Measurement] = []
    gates: list[GateStatus] = Field(
        default=[], description="Failed ones first. Of very many gates only the first are listed; the report has all."
    )
    gates_passed: int = Field(default=0, description="Of all gates, listed or not.")
    gates_failed: int = Field(default=0, description="Of all gates, listed or not.")
    report_uri: str | None = Field(default=None, alias="reportURI")


class Restarts(Model):
    preempted: int = 0
    failed: int = 0


class FineTuneJobStatus(Model):
    """Where the run is, and what it has produced."""

    observed_generation: int = 0
    revision: str | None = Field(
        default=None,
        description="The run that this status describes: a hash of the spec without suspend, "
        "ttlSecondsAfterFinished and onSpecChange.",
    )
    phase: Phase = "Pending"
    reason: str | None = Field(
        default=None, description="Why nothing runs, or why it has failed, in one word; left out while all is well."
    )
    conditions: ConditionList = []
    stages: Annotated[
        list[StageStatus],
        Field(json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}),
    ] = []
    progress: Progress | None = None
    dataset: DatasetStatus | None = None
    fit: FitStatus | None = None
    training: TrainingStatus | None = None
    artifacts: list[Artifact] | None = None
    recommended: Recommended | None = None
    evaluation: EvaluationStatus | None = None
    restarts: Restarts | None = None
    release_uri: str | None = Field(default=None, alias="releaseURI")
