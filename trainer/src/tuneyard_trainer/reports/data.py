"""The data report: what was read, what was kept and why the rest was not, and some rows before and after."""

from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from tuneyard_api import reasons
from tuneyard_api.contracts.results import DatasetSummary
from tuneyard_api.kinds.finetunejob_status import FitStatus, ReplayStatus
from tuneyard_trainer.data.changes import Changes
from tuneyard_trainer.data.cleaning import too_long
from tuneyard_trainer.data.columns import length, supervised
from tuneyard_trainer.data.dropped import DroppedRows
from tuneyard_trainer.data.examples import Example, content
from tuneyard_trainer.data.excerpt import excerpt
from tuneyard_trainer.data.findings import Original
from tuneyard_trainer.data.readers.row import Place
from tuneyard_trainer.data.replay import Replayed
from tuneyard_trainer.data.source import KnownRow
from tuneyard_trainer.data.split import GENERAL, TRAIN, VALIDATION, Split
from tuneyard_trainer.data.tokenize import TokenizedExample
from tuneyard_trainer.data.tokenize.tokens import TRUNCATED, AnswerCounts, TextPart
from tuneyard_trainer.reports.answers import ADVICE, answers_status
from tuneyard_trainer.reports.data_document import (
    Changed,
    Cluster,
    DataDocument,
    DroppedReason,
    LengthBin,
    Said,
    Sample,
)
from tuneyard_trainer.reports.reading import ReadingDocument
from tuneyard_trainer.runtime.errors import BadInput

PERCENTILES: Final = (50, 90, 99, 100)
SAMPLES: Final = 2
"""Rows of each format that are shown."""
CLUSTERS: Final = 10
BINS: Final = 20


@dataclass
class DataReport:
    """Counts that grow while the rows are read, cleaned and tokenized."""

    min_rows: int
    dropped: DroppedRows = field(default_factory=DroppedRows)
    originals: Mapping[Place, Original] = field(default_factory=dict)
    """Some rows as they were read."""
    splits: Sequence[Split] = (TRAIN, VALIDATION)
    """Those that must have rows."""
    rows_in: int = 0
    rows: Counter[str] = field(default_factory=Counter)  # by split
    sequences: Counter[str] = field(default_factory=Counter)  # by split; long texts are cut into several
    supervised: int = 0
    trained_tokens: int = 0
    """Those of `supervised` that are in the split for training."""
    replay: Replayed | None = None
    lengths: "array[int]" = field(default_factory=lambda: array("i"))  # tokens of each kept row
    answers: AnswerCounts = field(default_factory=AnswerCounts)
    changes: Changes = field(default_factory=Changes)
    trained_row: list[TextPart] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)

    @property
    def kept(self) -> int:
        return self.rows.total()

    @property
    def tokens(self) -> int:
        return sum(self.lengths)

    def add(self, split: Split, row: TokenizedExample) -> None:
        """Counts a row that is kept; one of dataset.replay apart from the others."""
        self.sequences[split] += 1
        if self.replay and row.source.split == GENERAL:
            self.replay.add(split, row)
            return
        if not row.piece:
            self.add_row(split, row.source)
        tokens = supervised(row.tokens)
        self.supervised += tokens
        self.trained_tokens += tokens if split == TRAIN else 0
        self.lengths.append(length(row.tokens))

    def add_row(self, split: Split, row: KnownRow) -> None:
        """Counts a row that is kept, without tokens."""
        self.rows[split] += 1
        original = self.originals.get(row.where)
        if original and sum(sample.format == original.format for sample in self.samples) < SAMPLES:
            self.samples.append(
                Sample(
                    where=str(row.where), format=original.format, before=original.text, after=list(said(row.example))
                )
            )

    def require_rows(self, kept: int) -> None:
        """Raises BadInput when fewer rows are kept than dataset.clean.minRows, and says why rows were dropped."""
        if kept >= self.min_rows:
            return
        advice = "Add rows, or lower dataset.clean.minRows."
        if self.dropped.counts[too_long.REASON] > kept:
            advice = (
                "Most were too long: raise training.maxLength, or cut their answers off by "
                "dataset.clean.maxLength: truncate."
            )
        elif self.answers.left_out[TRUNCATED] > kept:
            advice = ADVICE[TRUNCATED]
        raise BadInput(
            reasons.TOO_FEW_ROWS,
            f"{kept} rows are left of {self.rows_in} ({self._told_dropped()}); dataset.clean.minRows is "
            f"{self.min_rows}",
            advice,
        )

    def _told_dropped(self) -> str:
        return "dropped: " + (
            ", ".join(f"{count} {reason}" for reason, count in sorted(self.dropped.counts.items())) or "none"
        )

    def require_splits(self) -> None:
        """Raises BadInput when too few rows are kept, or none of a split that must have some."""
        self.require_rows(self.kept)
        if any(self.rows[split] == 0 for split in self.splits):
            advice = "Add rows, change dataset.validation or raise training.maxLength."
            raise BadInput(
                reasons.TOO_FEW_ROWS,
                f"Of {self.kept} rows {self.rows[TRAIN]} are for training and {self.rows[VALIDATION]} for validation "
                f"({self._told_dropped()})",
                ADVICE[TRUNCATED] if self.answers.left_out[TRUNCATED] else advice,
            )

    def dataset(self, digest: str) -> DatasetSummary:
        """The part that the stage hands on, and that the status shows."""
        return DatasetSummary(
            rows_in=self.rows_in,
            rows_kept=self.kept,
            dropped=dict(sorted(self.dropped.counts.items())),
            changed=dict(sorted(self.changes.counts.items())),
            tokens=self.tokens,
            answers=answers_status(self.answers),
            replay=self._replay(),
            digest=digest,
        )

    def document(self, name: str, digest: str, reading: ReadingDocument, fit: FitStatus | None = None) -> DataDocument:
        """The report on all rows that were counted."""
        return DataDocument(
            name=name,
            digest=digest,
            rows_in=self.rows_in,
            rows_kept=self.kept,
            rows=dict(sorted(self.rows.items())),
            dropped=dict(sorted(self.dropped.counts.items())),
            reasons=self._reasons(),
            tokens=self.tokens,
            supervised_tokens=self.supervised,
            length_percentiles=self._percentiles(),
            lengths=length_bins(self.lengths),
            answers=answers_status(self.answers),
            replay=self._replay(),
            replay_dropped=dict(sorted(self.replay.dropped.counts.items())) if self.replay else {},
            trained_row=self.trained_row,
            samples=self.samples,
            clusters=[
                Cluster(where=str(place), repeats=count) for place, count in self.dropped.repeated.most_common(CLUSTERS)
            ],
            changes=[
                Changed(what=what, rows=rows, samples=self.changes.samples[what])
                for what, rows in self.changes.counts.most_common()
            ],
            reading=reading,
            fit=fit,
        )

    def _replay(self) -> ReplayStatus | None:
        return self.replay.status(self.trained_tokens) if self.replay else None

    def _percentiles(self) -> dict[str, int]:
        return {str(percent): percentile(self.lengths, percent) for percent in PERCENTILES} if self.lengths else {}

    def _reasons(self) -> list[DroppedReason]:
        return [
            DroppedReason(reason=reason, rows=rows, where=str(first.place), message=first.message, row=first.row)
            for reason, rows in self.dropped.counts.most_common()
            if (first := self.dropped.examples[reason])
        ]


def percentile(values: "array[int]", percent: int) -> int:
    """The nearest-rank percentile."""
    ranked = sorted(values)
    return ranked[max(0, -(-percent * len(ranked) // 100) - 1)]


def length_bins(lengths: "array[int]") -> list[LengthBin]:
    """The lengths in at most BINS bins of the same width, one of 1, 2, 5, 10, 20, 50, ... tokens."""
    if not lengths:
        return []
    widths = (step * 10**power for power in range(9) for step in (1, 2, 5))
    longest = max(lengths)
    width = next(width for width in widths if width * BINS > longest)
    counts = np.bincount(np.asarray(lengths) // width).tolist()
    return [LengthBin(begin=width * at, end=width * (at + 1), rows=rows) for at, rows in enumerate(counts)]


def said(example: Example) -> Iterator[Said]:
    """The messages of a chat, or the fields of another example."""
    given = content(example)
    if isinstance(given, list):
        yield from (Said(speaker=message["role"], text=excerpt(message["content"])) for message in given)
    else:
        for name, value in given.items():
            yield Said(speaker=name, text=excerpt(value))
