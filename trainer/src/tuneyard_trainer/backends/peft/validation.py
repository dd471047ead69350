"""Validation during a run: the loss on held-out rows, and the adapter of the best step."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from tuneyard_trainer.data.columns import LABELS, TokenizedRow, supervised

BEST_FILE: Final = "best_adapter.safetensors"
"""In a checkpoint: the trainable weights of the best step so far."""

SummedLoss = Callable[[Sequence[TokenizedRow]], torch.Tensor]


class Validation:
    """The held-out rows of a run. Several processes share them out."""

    def __init__(self, model: PeftModel, rows: Sequence[TokenizedRow], micro_batch: int, summed_loss: SummedLoss):
        self._model = model
        self._rows = [row for row in rows if LABELS in row and supervised(row)]
        self._micro_batch = micro_batch
        self._summed_loss = summed_loss
        self._best: dict[str, torch.Tensor] | None = None

    def __bool__(self) -> bool:
        return bool(self._rows)

    def loss(self, autocast: Callable[[], AbstractContextManager[object]]) -> float:
        """The mean loss in nats per trained token, over the rows of all processes."""
        rank, processes = _rank()
        rows = sorted(self._rows, key=lambda row: -len(row[LABELS]))[rank::processes]
        device = next(self._model.parameters()).device
        total = torch.zeros(2, dtype=torch.float64, device=device)
        self._model.eval()
        with torch.no_grad(), autocast():
            for start in range(0, len(rows), self._micro_batch):
                batch = rows[start : start + self._micro_batch]
                total[0] += self._summed_loss(batch).double()
                total[1] += sum(map(supervised, batch))
        self._model.train()
        if processes > 1:
            torch.distributed.all_reduce(total)
        nll, tokens = total.tolist()
        return float(nll / tokens)

    def keep(self) -> None:
        """Remembers the adapter as it is now as the best one."""
        self._best = {name: weight.detach().cpu().clone() for name, weight in self._trainable()}

    def restore(self) -> None:
        """Makes the adapter what it was at the best step."""
        if self._best is None:
            return
        with torch.no_grad():
            for name, weight in self._trainable():
                weight.copy_(self._best[name])

    def save(self, checkpoint: Path) -> None:
        if self._best is not None:
            save_file(self._best, checkpoint / BEST_FILE)

    def load(self, checkpoint: Path) -> None:
        if (checkpoint / BEST_FILE).exists():
            self._best = load_file(checkpoint / BEST_FILE)

    def _trainable(self) -> list[tuple[str, torch.nn.Parameter]]:
        return [(name, weight) for name, weight in self._model.named_parameters() if weight.requires_grad]


def _rank() -> tuple[int, int]:
    if not torch.distributed.is_initialized():
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()
