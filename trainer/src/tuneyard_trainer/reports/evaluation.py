"""The evaluation report: one HTML file that needs no other file, and the same as JSON."""

from collections.abc import Sequence
from typing import Self

from tuneyard_api.contracts.base import Contract
from tuneyard_api.contracts.results import EvaluateResult, ExportedArtifact, Level
from tuneyard_api.kinds.finetunejob_status import GateStatus, Measurement, TrainingStatus
from tuneyard_api.registry import BASE, METRICS, TUNED, subject_of
from tuneyard_trainer.reports import plots
from tuneyard_trainer.reports.render import render


class MetricValues(Contract):
    """A metric of all models."""

    metric: str
    higher_is_better: bool
    values: dict[str, float]
    """By model: base, tuned or an artifact's format."""

    @property
    def base(self) -> float | None:
        """Of the base model, where it was measured and is not zero."""
        return self.values.get(BASE) or None

    @property
    def plot(self) -> str:
        """A bar for each model."""
        return plots.bars(
            [
                plots.Bar(subject, value, f"{value:.4g}", colour=1 if subject == BASE else 0)
                for subject, value in self.values.items()
            ]
        )


class ComparedAnswers(Contract):
    """What the models answer to one held-out question."""

    question: str
    wanted: str
    """The answer of the row."""
    answers: dict[str, str]
    """By model."""


class EvaluationDocument(Contract):
    """report.json"""

    name: str
    """Of the FineTuneJob."""
    digest: str
    """Of the evaluate stage."""
    passed: bool
    rows: int
    """Held-out rows that were scored."""
    tokens: int
    """Trained tokens in them."""
    measurements: list[Measurement]
    levels: list[Level] = []
    gates: list[GateStatus]
    artifacts: list[ExportedArtifact] = []
    training: TrainingStatus | None = None
    answers: list[ComparedAnswers] = []

    @classmethod
    def of(
        cls,
        name: str,
        digest: str,
        result: EvaluateResult,
        artifacts: list[ExportedArtifact],
        training: TrainingStatus | None,
        answers: Sequence[ComparedAnswers] = (),
    ) -> Self:
        found = dict(result)
        return cls(name=name, digest=digest, **found, artifacts=artifacts, training=training, answers=list(answers))

    @property
    def metrics(self) -> list[MetricValues]:
        """What was measured, by metric."""
        names = dict.fromkeys(item.metric for item in self.measurements)
        return [
            MetricValues(
                metric=name,
                higher_is_better=name in METRICS and METRICS[name].higher_is_better,
                values={item.subject: item.value for item in self.measurements if item.metric == name},
            )
            for name in names
        ]

    def perplexity(self, artifact: ExportedArtifact) -> float | None:
        """Of an artifact; the merged model's is that of the tuned model."""
        subject = subject_of(artifact.format)
        found = (item.value for item in self.measurements if (item.metric, item.subject) == ("perplexity", subject))
        return next(found, None)

    @property
    def levels_plot(self) -> str:
        """Perplexity over size of the merged model and what was made of it; empty where there is one model only."""
        merged = TUNED if any(level.subject == TUNED for level in self.levels) else BASE
        shown = [level for level in self.levels if merged == BASE or level.subject != BASE]
        points = [
            plots.Point(level.subject, level.size_bytes / 1e6, level.perplexity, int(level.subject == merged))
            for level in shown
        ]
        return plots.scatter(points, "MB on disk", "perplexity") if len(points) > 1 else ""

    @property
    def curve_plot(self) -> str:
        """The losses of the training; empty where there are none."""
        if self.training is None or not self.training.curve:
            return ""
        points = self.training.curve
        trained = [(float(point.step), point.loss) for point in points if point.loss is not None]
        series = {"validation loss": [(float(point.step), point.validation_loss) for point in points]}
        if trained:
            series["training loss"] = trained
        return plots.curves(series, "step", "nats per token", marked=self.training.kept_step)


def render_html(data: EvaluationDocument) -> str:
    """The page."""
    return render("evaluation.html", data=data)
