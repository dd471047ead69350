"""The termination message: a JSON document of at most 4,096 bytes by which a container tells the operator how it ended.

The kubelet keeps no more. What a decision reads is never left out; gates and measurements that do not fit are counted.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from pydantic import Field, ValidationError

from tuneyard_api import names, reasons
from tuneyard_api.base import Digest
from tuneyard_api.contracts.base import Contract
from tuneyard_api.contracts.results import (
    DatasetSummary,
    EvaluateResult,
    Measured,
    PublishResult,
    Recommendation,
    TrainResult,
)
from tuneyard_api.contracts.speed import Speed
from tuneyard_api.kinds.finetunejob_status import Fidelity, FitStatus, GateStatus, Measurement, TrainingStatus
from tuneyard_api.names import Stage

TERMINATION_BYTES: Final = 4096  # what the kubelet keeps of a container's termination message
CURVE_POINTS: Final = 20  # of a training's curve are shown in a status
TEXT_CHARACTERS: Final = 200  # of message and advice stay at least so many

Item = TypeVar("Item")


class PrepareReport(Contract):
    """What the operator needs of prepare. URIs follow from the digests: see results.stage_uri."""

    digests: dict[Stage, str]
    done: list[Stage] = Field(default=[], description="Stages after prepare whose commit mark exists.")
    dataset: DatasetSummary
    fit: FitStatus | None = None

    def reduced(self) -> Iterator[Self]:
        """A version without the advice and the parts of the fit, of which the log tells too."""
        if self.fit:
            yield self.model_copy(update={"fit": self.fit.model_copy(update={"parts": {}, "advice": None})})


def _with_curve(training: TrainingStatus, count: int) -> TrainingStatus:
    """The training with at most `count` points of its curve, among them that of the kept step."""
    points, last = training.curve, len(training.curve) - 1
    spread = {round(index * last / max(count - 2, 1)) for index in range(count - 1)} if count > 1 else set()
    chosen = range(last + 1) if len(points) <= count else spread
    kept = [
        point for index, point in enumerate(points) if index in chosen or (chosen and point.step == training.kept_step)
    ]
    return training.model_copy(update={"curve": kept})


def _summary(training: TrainingStatus) -> TrainingStatus:
    """The training without what its own report has told."""
    told: dict[str, Any] = {"spikes": [], "rungs": [], "tensorboard_uri": None, "mlflow": None}
    return _with_curve(training, 0).model_copy(update=told)


class TrainReport(Contract):
    """What the operator needs of train."""

    training: TrainingStatus = Field(description="With a few points of the curve.")

    @classmethod
    def of(cls, result: TrainResult) -> Self:
        return cls.of_status(result.training)

    @classmethod
    def of_status(cls, training: TrainingStatus) -> Self:
        return cls(training=_with_curve(training, CURVE_POINTS))

    def reduced(self) -> Iterator[Self]:
        """Versions with fewer points of the curve, and then without spikes and addresses."""
        for count in (CURVE_POINTS // 2, CURVE_POINTS // 4, 0):
            yield self.model_copy(update={"training": _with_curve(self.training, count)})
        bare = _with_curve(self.training, 0).model_copy(update={"spikes": [], "tensorboard_uri": None, "mlflow": None})
        yield self.model_copy(update={"training": bare})


class EvaluateReport(Contract):
    """What the operator needs of evaluate."""

    measurements: list[Measurement]
    gates: list[GateStatus] = Field(description="Failed ones first.")
    gates_passed: int = Field(description="Of all gates, listed or not.")
    gates_failed: int

    @classmethod
    def of(cls, result: EvaluateResult) -> Self:
        failed = sum(not gate.passed for gate in result.gates)
        return cls(
            measurements=result.measurements,
            gates=sorted(result.gates, key=lambda gate: gate.passed),
            gates_passed=len(result.gates) - failed,
            gates_failed=failed,
        )

    def reduced(self) -> Iterator[Self]:
        """Versions with fewer gates listed, and then with fewer measurements."""
        for gates in _fewer(self.gates):
            yield self.model_copy(update={"gates": gates})
        for measurements in _fewer(self.measurements):
            yield self.model_copy(update={"gates": self.gates[:1], "measurements": measurements})


class PublishedArtifact(Measured):
    """An artifact of a release; its URI follows from export's digest and the format."""

    format: str
    digest: Digest
    size_bytes: int
    perplexity: float | None = None
    fidelity: Fidelity | None = None


class PublishReport(Contract):
    """What the operator needs of publish."""

    artifacts: list[PublishedArtifact]
    recommended: Recommendation | None = Field(default=None, description="None: the job exports nothing.")
    evaluation: EvaluateReport | None = Field(default=None, description="None: the job evaluates nothing.")
    training: TrainingStatus | None = Field(default=None, description="None: the job trains nothing.")

    @classmethod
    def of(cls, result: PublishResult) -> Self:
        return cls(
            artifacts=[PublishedArtifact.model_validate(artifact.model_dump()) for artifact in result.artifacts],
            recommended=result.recommended,
            evaluation=EvaluateReport.of(result.evaluation) if result.evaluation else None,
            training=_summary(result.training) if result.training else None,
        )

    def reduced(self) -> Iterator[Self]:
        """Versions with less detail of the evaluation, and then of the artifacts: first without their fidelity."""
        short = self
        for evaluation in self.evaluation.reduced() if self.evaluation else ():
            short = self.model_copy(update={"evaluation": evaluation})
            yield short
        for unsaid in (["fidelity"], ["fidelity", *Speed.model_fields], ["fidelity", *Measured.model_fields]):
            bare = [artifact.model_copy(update=dict.fromkeys(unsaid)) for artifact in self.artifacts]
            yield short.model_copy(update={"artifacts": bare})


StageReport = PrepareReport | TrainReport | EvaluateReport | PublishReport


class Termination(Contract):
    """How a container ended."""

    reason: str
    message: str = ""
    advice: str = ""
    result: dict[str, Any] | None = Field(default=None, description="The stage's report, in its JSON form.")

    @property
    def text(self) -> str:
        """Message and advice as sentences."""
        parts = filter(None, (self.message.strip(), self.advice.strip()))
        return " ".join(part if part.endswith((".", "!", "?")) else f"{part}." for part in parts)

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The document that one of tuneyard's own programs wrote; None where it is anything else."""
        try:
            return cls.model_validate_json(text)
        except ValidationError:
            return None

    def encode(self) -> bytes:
        return self.model_dump_json(by_alias=True, exclude_none=True, exclude_defaults=True).encode()


def termination_message(
    reason: str, message: str, advice: str = "", report: StageReport | None = None, limit: int = TERMINATION_BYTES
) -> bytes:
    """A termination message of at most `limit` bytes.

    Detail of the report goes first, then the middle of message and advice. A report that is too large even so becomes
    a failure with a name.
    """
    text = Termination(reason=reason, message=message, advice=advice)
    for candidate in _candidates(report):
        result = candidate.wire() if candidate else None
        for fitted in _shortened_texts(text.model_copy(update={"result": result}), limit):
            if len(encoded := fitted.encode()) <= limit:
                return encoded
    too_large = f"The result has more than {limit} bytes and cannot be handed to the operator"
    return Termination(
        reason=reasons.RESULT_TOO_LARGE, message=too_large, advice="Use fewer formats or gates."
    ).encode()


def write_termination_message(message: bytes) -> None:
    """Writes the message to the file that the kubelet created for it; where there is no kubelet it writes nothing.

    The environment variable TUNEYARD_TERMINATION_LOG names another file.
    """
    chosen = os.environ.get(names.ENV_TERMINATION_LOG)
    path = Path(chosen or names.TERMINATION_LOG)
    if chosen or path.exists():
        path.write_bytes(message)


def _candidates(report: StageReport | None) -> Iterator[StageReport | None]:
    yield report
    if report is not None:
        yield from report.reduced()


def _shortened_texts(termination: Termination, limit: int) -> Iterator[Termination]:
    """The message as it is, and then with message and advice cut to the space that is left."""
    yield termination
    length = max(len(termination.message), len(termination.advice))
    while length > TEXT_CHARACTERS:
        length = max(TEXT_CHARACTERS, length * 3 // 4)
        cut = {"message": shortened(termination.message, length), "advice": shortened(termination.advice, length)}
        yield termination.model_copy(update=cut)


def shortened(text: str, length: int) -> str:
    """The beginning and the end of a text, `length` characters in all."""
    half = (length - 5) // 2
    return text if len(text) <= length else f"{text[:half]} ... {text[-half:]}"


def _fewer(items: Sequence[Item]) -> Iterator[list[Item]]:
    """Ever shorter beginnings of a list; at least one item stays."""
    count = len(items)
    while count > 1:
        count = max(1, count * 3 // 4)
        yield list(items[:count])
