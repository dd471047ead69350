"""Compares the logits of models on the same rows; runs in workers, with torch."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import torch

from tuneyard_api.kinds.finetunejob_status import Fidelity
from tuneyard_trainer.exporters import fidelity

ROWS: Final = 8
ROW_TOKENS: Final = 128


class Reference:
    """The logits of a model on some rows: on disk, so that this model and another one are not in memory together.

    Args:
        rows: some of them are used; where there are none, the first tokens of the vocabulary are a row.
        directory: where the logits are, once they are written.
    """

    def __init__(self, rows: Sequence[list[int]], directory: Path) -> None:
        self.rows = [row[:ROW_TOKENS] for row in rows[:ROWS]] or [list(range(ROW_TOKENS))]
        self._files = [directory / f"{number}.pt" for number in range(len(self.rows))]

    @property
    def is_written(self) -> bool:
        return self._files[-1].exists()

    def write(self, model: Any) -> None:
        """Writes the logits of the model that others are compared with."""
        self._files[0].parent.mkdir(parents=True, exist_ok=True)
        for path, found in zip(self._files, logits(model, self.rows), strict=True):
            torch.save(found, path)

    def compare(self, model: Any) -> Fidelity:
        """How far the logits of another model are from the reference."""
        return self.compare_logits(logits(model, self.rows))

    def compare_logits(self, other_logits: Iterable[torch.Tensor]) -> Fidelity:
        """The same of logits that something else has computed: [tokens, vocabulary] for each row."""
        kl, changed, positions = 0.0, 0, 0
        difference, norm = 0.0, 0.0
        for path, found in zip(self._files, other_logits, strict=True):
            expected = torch.load(path)
            other, own = torch.log_softmax(found.double(), -1), torch.log_softmax(expected.double(), -1)
            kl += float((own.exp() * (own - other)).sum())
            changed += int((own.argmax(-1) != other.argmax(-1)).sum())
            positions += len(own)
            # Logits count up to a constant for each position.
            centred = expected.double() - expected.double().mean(-1, keepdim=True)
            error = found.double() - found.double().mean(-1, keepdim=True) - centred
            difference, norm = difference + float(error.square().sum()), norm + float(centred.square().sum())
        return fidelity.rounded(kl / positions, changed / positions, (difference / norm) ** 0.5 if norm else 0.0)


def logits(model: Any, rows: Sequence[list[int]]) -> Iterator[torch.Tensor]:
    """The logits of each row: [tokens, vocabulary]."""
    model.eval()
    device = next(model.parameters()).device
    for row in rows:
        with torch.inference_mode():
            found = model(input_ids=torch.tensor([row], device=device), use_cache=False).logits[0].cpu()
        yield found
