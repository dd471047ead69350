"""Replay: general rows are trained with a job's own, so that the model keeps what it can do already.

Rehearsal, as in Robins 1995, Catastrophic forgetting, rehearsal and pseudorehearsal; for language models in Scialom et
al. 2022, Fine-tuned language models are continual learners. The share is one of trained tokens, as it is the tokens
that the loss is a mean over.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from tuneyard_api import reasons
from tuneyard_api.kinds.finetunejob_status import ReplayStatus
from tuneyard_trainer.data.columns import supervised
from tuneyard_trainer.data.dropped import DroppedRows
from tuneyard_trainer.data.split import GENERAL, TRAIN, Split
from tuneyard_trainer.data.tokenize import TokenizedExample
from tuneyard_trainer.runtime.errors import BadInput

HELD_OUT_SHARE: Final = 0.2
HELD_OUT_ROWS: Final = 200
"""At most; the default of evaluation.maxRows."""


@dataclass
class Replayed:
    """Counts that grow while the rows of dataset.replay are read, cleaned and tokenized."""

    uri: str
    dropped: DroppedRows = field(default_factory=DroppedRows)
    """Counted, but not written down."""
    rows: int = 0
    """Trained ones."""
    tokens: int = 0
    """Trained ones."""
    held_out: int = 0

    def add(self, split: Split, row: TokenizedExample) -> None:
        """Counts a row that is used."""
        if split == TRAIN:
            self.rows += 1
            self.tokens += supervised(row.tokens)
        else:
            self.held_out += 1

    def require(self) -> None:
        """Raises BadInput when there are too few rows to train some and to hold some out."""
        if self.rows and self.held_out:
            return
        dropped = ", ".join(f"{count} {reason}" for reason, count in sorted(self.dropped.counts.items())) or "none"
        raise BadInput(
            reasons.TOO_FEW_ROWS,
            f"Of the rows of {self.uri} {self.rows} are left to train and {self.held_out} to hold out (dropped: "
            f"{dropped})",
            "Add rows there, or leave dataset.replay out.",
        )

    def status(self, own_tokens: int) -> ReplayStatus:
        """What the status shows.

        Args:
            own_tokens: trained tokens of the job's own rows.
        """
        share = self.tokens / max(1, self.tokens + own_tokens)
        return ReplayStatus(
            uri=self.uri, rows=self.rows, tokens=self.tokens, fraction=round(share, 4), held_out=self.held_out
        )


def held_out_count(rows: int) -> int:
    """How many of the rows are held out."""
    return min(HELD_OUT_ROWS, max(1, round(HELD_OUT_SHARE * rows)))


def wanted_tokens(own: int, fraction: float) -> float:
    """The trained tokens that are this share of all, beside `own` others."""
    return own * fraction / (1 - fraction)


def replayed(
    rows: Iterable[TokenizedExample], held_out: int, tokens: float
) -> Iterator[tuple[Split, TokenizedExample]]:
    """The first rows, which are held out, and so many of those after them, at least one, as have this many tokens.

    The last row is the one that comes nearest.
    """
    remaining = tokens
    for number, row in enumerate(rows):
        if number < held_out:
            yield GENERAL, row
            continue
        trained = supervised(row.tokens)
        if number > held_out and trained / 2 >= remaining:
            return
        remaining -= trained
        yield TRAIN, row
