"""What the score workers sum up over the held-out rows of one model, whatever computes its logits."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from tuneyard_api.contracts.requests import Likelihood, Score, ScoreRequest
from tuneyard_api.contracts.speed import Speed
from tuneyard_trainer.data.columns import IGNORED
from tuneyard_trainer.metrics.comparison import Comparison, Logits

Row = tuple[list[int], list[int]]
"""The tokens of a row and, as long, their labels."""


class HeldOut(NamedTuple):
    """The rows that models are measured on."""

    rows: list[Row]
    """The job's own."""
    general: list[Row]
    prompts: list[list[int]]
    """Questions that each model answers."""

    @classmethod
    def of(cls, request: ScoreRequest) -> Self:
        general = json.loads(request.general.read_text()) if request.general else []
        return cls(json.loads(request.rows.read_text()), general, request.prompts)

    @property
    def texts(self) -> Iterator[list[int]]:
        """The tokens of all rows."""
        return (ids for ids, _ in (*self.rows, *self.general))


def predicted(labels: Sequence[int]) -> list[int]:
    """The positions of the answer tokens. The logits of a position are those of the next token."""
    return [position for position in range(1, len(labels)) if labels[position] != IGNORED]


@dataclass
class Tally:
    """The sums of one model."""

    end_tokens: frozenset[int]
    """Those that end an answer."""
    compared: frozenset[int]
    """The numbers of the rows whose logits are compared."""
    comparison: Comparison
    nll: float = 0.0
    tokens: int = 0
    ends: list[float] = field(default_factory=list)
    general: "Tally | None" = None
    """The sums of the general rows; None in them."""

    @classmethod
    def of(cls, request: ScoreRequest, subject: str) -> Self:
        comparison = Comparison(request.logits, is_reference=subject == request.reference)
        general = cls(frozenset(), frozenset(), comparison)
        return cls(frozenset(request.end_tokens), frozenset(request.compared), comparison, general=general)

    def add(self, labels: Sequence[int], nll: NDArray[np.floating], positions: Sequence[int]) -> None:
        """Some answer tokens of a row.

        Args:
            nll: negative log-likelihood of the tokens at `positions`, in nats.
        """
        self.nll += float(nll.sum(dtype=np.float64))
        self.tokens += len(positions)
        self.ends += [float(np.exp(-nll[index])) for index in self._ends(labels, positions)]

    def _ends(self, labels: Sequence[int], positions: Sequence[int]) -> Iterator[int]:
        for index, position in enumerate(positions):
            is_last = position + 1 == len(labels) or labels[position + 1] == IGNORED
            if is_last and labels[position] in self.end_tokens:
                yield index

    def compare(self, row: int, logits: Logits) -> None:
        """The logits of all answer tokens of a row whose number is in `compared`."""
        self.comparison.add(row, logits)

    def score(self, *, memory_bytes: int, speed: Speed, engine: str, answers: Sequence[list[int]] = ()) -> Score:
        """The sums, and what the worker has measured of the model itself."""
        return Score(
            nll=self.nll,
            tokens=self.tokens,
            general=self._general(),
            kl=self.comparison.kl,
            changed_top1=self.comparison.changed_top1,
            end_probability=sum(self.ends) / len(self.ends) if self.ends else None,
            memory_bytes=memory_bytes,
            **dict(speed),
            engine=engine,
            answers=list(answers),
        )

    def _general(self) -> Likelihood | None:
        if self.general is None or not self.general.tokens:
            return None
        return Likelihood(nll=self.general.nll, tokens=self.general.tokens)
