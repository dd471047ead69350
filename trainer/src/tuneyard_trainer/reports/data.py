"""The data report: counts, lengths and two sample rows."""

from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

from tuneyard_api import reasons
from tuneyard_api.contracts.base import Contract
from tuneyard_api.contracts.results import DatasetSummary
from tuneyard_api.kinds.finetunejob_status import AnswersStatus
from tuneyard_trainer.data.cleaning import too_long
from tuneyard_trainer.data.columns import length, supervised
from tuneyard_trainer.data.examples import content
from tuneyard_trainer.data.split import TRAIN, VALIDATION, Split
from tuneyard_trainer.data.tokenize import TokenizedExample
from tuneyard_trainer.data.tokenize.tokens import AnswerCounts, TextPart
from tuneyard_trainer.reports.answers import answers_status
from tuneyard_trainer.reports.reading import ReadingDocument
from tuneyard_trainer.reports.render import render
from tuneyard_trainer.runtime.errors import BadInput

PERCENTILES: Final = (50, 90, 99, 100)
SAMPLES: Final = 2


class DataDocument(Contract):
    """report.json"""

    name: str
    """Of the FineTuneJob."""
    digest: str
    rows_in: int
    rows_kept: int
    rows: dict[str, int]
    """Kept rows by split."""
    dropped: dict[str, int]
    """Dropped rows by reason."""
    tokens: int
    supervised_tokens: int
    length_percentiles: dict[str, int]
    """Tokens per row."""
    answers: AnswersStatus
    trained_row: list[TextPart]
    """The text of one row, in pieces that are trained and pieces that are not."""
    samples: list[Any]
    """Some rows: see tuneyard_trainer.data.examples.content."""
    reading: ReadingDocument = ReadingDocument()


@dataclass
class DataReport:
    """Counts that grow while the rows are read, cleaned and tokenized."""

    min_rows: int
    rows_in: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    rows: Counter[str] = field(default_factory=Counter)  # by split
    sequences: Counter[str] = field(default_factory=Counter)  # by split; long texts are cut into several
    supervised: int = 0
    lengths: "array[int]" = field(default_factory=lambda: array("i"))  # tokens of each kept row
    answers: AnswerCounts = field(default_factory=AnswerCounts)
    trained_row: list[TextPart] = field(default_factory=list)
    samples: list[Any] = field(default_factory=list)  # see examples.content

    @property
    def kept(self) -> int:
        return self.rows.total()

    @property
    def tokens(self) -> int:
        return sum(self.lengths)

    def add(self, split: Split, row: TokenizedExample) -> None:
        """Counts a row that is kept."""
        self.sequences[split] += 1
        self.rows[split] += not row.piece
        self.supervised += supervised(row.tokens)
        self.lengths.append(length(row.tokens))
        if len(self.samples) < SAMPLES and not row.piece:
            self.samples.append(content(row.source.example))

    def require_rows(self, kept: int) -> None:
        """Raises BadInput when fewer rows are kept than dataset.clean.minRows, and says why rows were dropped."""
        if kept >= self.min_rows:
            return
        advice = "Add rows, or lower dataset.clean.minRows."
        if self.dropped[too_long.REASON] > kept:
            advice = "Most were too long: raise training.maxLength, or set dataset.clean.maxLength to truncate."
        raise BadInput(
            reasons.TOO_FEW_ROWS,
            f"{kept} rows are left of {self.rows_in} ({self._told_dropped()}); dataset.clean.minRows is "
            f"{self.min_rows}",
            advice,
        )

    def _told_dropped(self) -> str:
        return "dropped: " + (
            ", ".join(f"{count} {reason}" for reason, count in sorted(self.dropped.items())) or "none"
        )

    def require_splits(self) -> None:
        """Raises BadInput when too few rows are kept, or none for training or for validation."""
        self.require_rows(self.kept)
        if min(self.rows[TRAIN], self.rows[VALIDATION]) == 0:
            raise BadInput(
                reasons.TOO_FEW_ROWS,
                f"Of {self.kept} rows {self.rows[TRAIN]} are for training and {self.rows[VALIDATION]} for validation "
                f"({self._told_dropped()})",
                "Add rows, change dataset.validation or raise training.maxLength.",
            )

    def dataset(self, digest: str) -> DatasetSummary:
        """The part that the stage hands on, and that the status shows."""
        return DatasetSummary(
            rows_in=self.rows_in,
            rows_kept=self.kept,
            dropped=dict(sorted(self.dropped.items())),
            tokens=self.tokens,
            answers=answers_status(self.answers),
            digest=digest,
        )

    def document(self, name: str, digest: str, reading: ReadingDocument) -> DataDocument:
        """The report on all rows that were counted."""
        return DataDocument(
            name=name,
            digest=digest,
            rows_in=self.rows_in,
            rows_kept=self.kept,
            rows=dict(sorted(self.rows.items())),
            dropped=dict(sorted(self.dropped.items())),
            tokens=self.tokens,
            supervised_tokens=self.supervised,
            length_percentiles={str(percent): percentile(self.lengths, percent) for percent in PERCENTILES},
            answers=answers_status(self.answers),
            trained_row=self.trained_row,
            samples=self.samples,
            reading=reading,
        )


def percentile(values: "array[int]", percent: int) -> int:
    """The nearest-rank percentile."""
    ranked = sorted(values)
    return ranked[max(0, -(-percent * len(ranked) // 100) - 1)]


def render_markdown(data: DataDocument) -> str:
    """report.md"""
    return render("data.md", data=data)
