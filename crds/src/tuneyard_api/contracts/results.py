"""What each stage writes into stage.json, its commit mark; later stages read it from there."""

from typing import Any, Final, Generic, TypeVar

from pydantic import Field, model_validator

from tuneyard_api.base import Digest
from tuneyard_api.contracts.base import Contract
from tuneyard_api.contracts.speed import Speed
from tuneyard_api.kinds.finetunejob import FineTuneJobSpec
from tuneyard_api.kinds.finetunejob_status import (
    AnswersStatus,
    Fidelity,
    GateStatus,
    Measurement,
    ReplayStatus,
    TrainingStatus,
)
from tuneyard_api.names import Stage

STAGE_MARK: Final = "stage.json"
RELEASE_FILE: Final = "release.json"
REPORT_FILES: Final[dict[Stage, str]] = {"prepare": "report.html", "evaluate": "report.html", "publish": RELEASE_FILE}


def stage_uri(output_uri: str, digest: str, stage: Stage, *parts: str) -> str:
    """Where something of a stage lies: <output>/runs/<digest>/<stage>/..."""
    return "/".join([output_uri.rstrip("/"), "runs", digest, stage, *parts])


class DatasetSummary(Contract):
    """What prepare made of the data."""

    rows_in: int
    rows_kept: int
    dropped: dict[str, int] = {}
    changed: dict[str, int] = {}
    tokens: int
    answers: AnswersStatus | None = None
    replay: ReplayStatus | None = None
    digest: str


class ArtifactRef(Contract):
    """A published directory: where it lies, and the digest of its manifest."""

    uri: str
    digest: Digest


class ExportedArtifact(ArtifactRef):
    format: str
    size_bytes: int
    notes: list[str] = Field(default=[], description="What people should know of how it was made.")
    fidelity: Fidelity | None = Field(default=None, description="None: not compared with the merged model.")


class Measured(Speed):
    """What evaluate measures of a model beside its metrics; None: not measured."""

    memory_bytes: int | None = None
    kl: float | None = Field(default=None, description="From the merged model, in nats per token.")
    changed_top1: float | None = Field(default=None, alias="changedTop1")
    end_probability: float | None = Field(
        default=None, description="Mean probability of the token that ends the answer, at the answer's end."
    )


class MeasuredArtifact(ExportedArtifact, Measured):
    perplexity: float | None = None


class PrepareResult(Contract):
    dataset: DatasetSummary
    tokenizer: ArtifactRef | None = Field(
        default=None, description="The tokenizer and the chat template that made the rows; version 1 had none."
    )
    end_of_turn: list[int] = Field(default=[], description="Tokens that the model is trained to end its turns with.")
    total_steps: int = Field(description="Optimizer steps of the run.")


class TrainResult(Contract):
    training: TrainingStatus = Field(description="With the whole curve.")
    adapter: ArtifactRef | None = Field(default=None, description="None: every parameter was trained.")
    model: ArtifactRef | None = Field(default=None, description="The trained model; None: an adapter was trained.")

    @model_validator(mode="before")
    @classmethod
    def _read_earlier_marks(cls, data: Any) -> Any:
        """Marks that name an adapter without `adapter`: there were no trained models then."""
        if isinstance(data, dict) and "adapterURI" in data:
            return data | {"adapter": {"uri": data["adapterURI"], "digest": data.get("adapterDigest")}}
        return data


class ExportResult(Contract):
    artifacts: list[ExportedArtifact] = Field(description="In the order of spec.export.formats, or of the ladder.")
    merged: ExportedArtifact = Field(description="The model that the quantized formats were made of.")


class Level(Measured):
    """What one model costs, and how good it is: a row of the table of levels."""

    subject: str = Field(description="base, tuned, or an artifact's format.")
    size_bytes: int = Field(description="On disk.")
    perplexity: float
    engine: str = Field(default="", description="What measured memory and speed: the library, and its version.")


class EvaluateResult(Contract):
    measurements: list[Measurement]
    levels: list[Level] = Field(default=[], description="Of every model, in the order of the measurements.")
    gates: list[GateStatus]
    passed: bool = Field(description="Whether the gates allow the release.")
    rows: int = Field(description="Held-out rows that were scored.")
    tokens: int = Field(description="Supervised tokens in them.")


class Recommendation(Contract):
    """The artifact that a ModelServer serves by default, and why."""

    format: str
    reason: str


class PublishResult(Contract):
    """What a release holds."""

    artifacts: list[MeasuredArtifact]
    recommended: Recommendation
    evaluation: EvaluateResult | None = Field(default=None, description="None: there were no rows to measure with.")
    dataset: DatasetSummary
    training: TrainingStatus | None = None

    @property
    def recommended_artifact(self) -> MeasuredArtifact:
        return next(item for item in self.artifacts if item.format == self.recommended.format)


class Release(PublishResult):
    """release.json: the result of publish, and where it comes from."""

    name: str = Field(description="Of the FineTuneJob.")
    spec: FineTuneJobSpec
    digests: dict[Stage, str]
    adapter: ArtifactRef | None = None


StageResult = PrepareResult | TrainResult | ExportResult | EvaluateResult | PublishResult


Result = TypeVar("Result", bound=StageResult)


class StageMark(Contract, Generic[Result]):
    """stage.json: a stage whose mark exists is adopted, not run."""

    stage: Stage
    version: int
    digest: str
    result: Result
