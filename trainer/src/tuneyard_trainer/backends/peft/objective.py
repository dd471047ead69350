"""What a run minimises: the likelihood of answers, or the preference of one answer over another."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import torch
from torch.nn import functional

from tuneyard_trainer.backends.peft.batches import Batch, row_losses
from tuneyard_trainer.backends.peft.batching import Batching
from tuneyard_trainer.data.columns import INPUT_IDS, LABELS, REJECTED, TokenizedRow, is_trainable, supervised


class Summed(NamedTuple):
    """Sums over the rows of a batch."""

    loss: torch.Tensor
    preferred: torch.Tensor | None = None
    """Pairs whose chosen answer the model prefers; None: the rows are no pairs."""


class Likelihood(NamedTuple):
    """The negative log-likelihood of the trained tokens, in nats; its mean is over tokens."""

    batching: Batching

    def collate(self, rows: Sequence[TokenizedRow]) -> Batch:
        return self.batching.collate(rows)

    def summed(self, model: torch.nn.Module, batch: Batch) -> Summed:
        return Summed(self.batching.loss(model, batch))

    def weight(self, row: TokenizedRow) -> int:
        return supervised(row)


class Preference(NamedTuple):
    """Direct preference optimization; its mean is over pairs of answers.

    -log sigmoid(beta * ((log p(chosen) - log p0(chosen)) - (log p(rejected) - log p0(rejected)))), where p0 is the
    model without its adapter (Rafailov et al. 2023, arXiv:2305.18290, equation 7).
    """

    batching: Batching
    beta: float

    def collate(self, rows: Sequence[TokenizedRow]) -> Batch:
        """The chosen answers of all pairs, and behind them the rejected ones."""
        return self.batching.collate([*map(chosen, rows), *map(rejected, rows)])

    def summed(self, model: torch.nn.Module, batch: Batch) -> Summed:
        """A model whose adapter changes nothing prefers neither answer, and has the loss log 2 for each pair."""
        with _reference(model) as reference, torch.no_grad():
            base = self._likelihoods(reference, batch)
        gain = self._likelihoods(model, batch) - base
        for_chosen, for_rejected = gain.chunk(2)
        margin = self.beta * (for_chosen - for_rejected)
        return Summed(-functional.logsigmoid(margin).sum(), (margin > 0).sum())

    def _likelihoods(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        return -row_losses(model, batch, self.batching.with_some_logits, self.batching.head)

    def weight(self, row: TokenizedRow) -> int:
        return 1


Objective = Likelihood | Preference

REJECTED_COLUMNS: Final = {name: REJECTED + name for name in (INPUT_IDS, LABELS)}


def chosen(row: TokenizedRow) -> TokenizedRow:
    return {name: row[name] for name in REJECTED_COLUMNS}


def rejected(row: TokenizedRow) -> TokenizedRow:
    return {name: row[column] for name, column in REJECTED_COLUMNS.items()}


def trainable_rows(rows: Sequence[TokenizedRow]) -> list[TokenizedRow]:
    return [row for row in rows if LABELS in row and is_trainable(row)]


@contextmanager
def _reference(model: torch.nn.Module) -> Iterator[Any]:
    """The model without its adapter, and without dropout."""
    adapted: Any = getattr(model, "module", model)  # of DistributedDataParallel
    was_training = adapted.training
    adapted.eval()
    try:
        with adapted.disable_adapter():
            yield adapted
    finally:
        adapted.train(was_training)
