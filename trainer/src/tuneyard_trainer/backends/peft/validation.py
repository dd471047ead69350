"""Validation during a run: the loss on held-out rows, and the weights of the best step."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, NamedTuple

import torch
from safetensors.torch import load_file, save_file

from tuneyard_trainer.backends.peft.batches import on_device
from tuneyard_trainer.backends.peft.memory import is_out_of_memory
from tuneyard_trainer.backends.peft.model import Trainable
from tuneyard_trainer.backends.peft.objective import Objective, Preference, trainable_rows
from tuneyard_trainer.data.columns import LABELS, TokenizedRow

BEST_FILE: Final = "best_adapter.safetensors"
"""In a checkpoint: the trainable weights of the best step so far."""


class Validated(NamedTuple):
    """What the held-out rows say of the model."""

    loss: float
    """In nats per trained token; of pairs, per pair."""
    preference_accuracy: float | None
    """The share of pairs whose chosen answer the model prefers, more than without its adapter."""


class Validation:
    """The held-out rows of a run. Several processes share them out."""

    def __init__(self, model: Trainable, rows: Sequence[TokenizedRow], micro_batch: int, objective: Objective):
        self._model = model
        self._rows = trainable_rows(rows)
        self._micro_batch = micro_batch
        self._objective = objective
        self._best: dict[str, torch.Tensor] | None = None

    def __bool__(self) -> bool:
        return bool(self._rows)

    def measure(self, autocast: Callable[[], AbstractContextManager[object]]) -> Validated:
        """The means over the rows of all processes."""
        rank, processes = _rank()
        rows = sorted(self._rows, key=lambda row: -len(row[LABELS]))[rank::processes]
        self._model.eval()
        with torch.no_grad(), autocast():
            total = self._total(rows)
        self._model.train()
        if processes > 1:
            torch.distributed.all_reduce(total)
        loss, weight, preferred = total.tolist()
        return Validated(loss / weight, preferred / weight if isinstance(self._objective, Preference) else None)

    def _total(self, rows: Sequence[TokenizedRow]) -> torch.Tensor:
        """Summed loss, weights and preferred pairs, in smaller batches where the memory does not suffice."""
        device = next(self._model.parameters()).device
        total = torch.zeros(3, dtype=torch.float64, device=device)
        try:
            for start in range(0, len(rows), self._micro_batch):
                batch = rows[start : start + self._micro_batch]
                summed = self._objective.summed(self._model, on_device(self._objective.collate(batch), device))
                total[0] += summed.loss.double()
                total[1] += sum(map(self._objective.weight, batch))
                total[2] += 0 if summed.preferred is None else summed.preferred
        except (RuntimeError, MemoryError) as error:
            if self._micro_batch == 1 or not is_out_of_memory(error):
                raise
            self._micro_batch //= 2
        else:
            return total
        return self._total(rows)

    def keep(self) -> None:
        """Remembers the trained weights as they are now as the best ones."""
        self._best = {name: weight.detach().cpu().clone() for name, weight in self._trainable()}

    def restore(self) -> None:
        """Makes the trained weights what they were at the best step."""
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
