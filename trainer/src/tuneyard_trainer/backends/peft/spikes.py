"""The rows of a step whose loss stands out."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch

from tuneyard_api.kinds.finetunejob_status import LossSpike, SpikeRow
from tuneyard_trainer.backends.guards import ROWS
from tuneyard_trainer.backends.peft.batches import on_device
from tuneyard_trainer.backends.peft.model import Trainable
from tuneyard_trainer.backends.peft.objective import Objective
from tuneyard_trainer.data.columns import TokenizedRow


class StepRows:
    """The rows of each step of a run."""

    def __init__(
        self,
        rows: Sequence[TokenizedRow],
        order: Sequence[int],
        batch: int,
        objective: Objective,
        model: Trainable,
    ) -> None:
        self._rows, self._order, self._batch = rows, order, batch
        self._objective = objective
        self._model = model

    def spike(
        self, step: int, loss: float, usual: float, autocast: Callable[[], AbstractContextManager[object]]
    ) -> LossSpike:
        """The rows of the step with the highest loss, each measured by itself. Every process measures all of them."""
        chosen = self._order[(step - 1) * self._batch : step * self._batch]
        self._model.eval()
        with torch.no_grad(), autocast():
            losses = [SpikeRow(row=row, loss=self._loss(self._rows[row])) for row in dict.fromkeys(chosen)]
        self._model.train()
        return LossSpike(step=step, loss=loss, usual=usual, rows=sorted(losses, key=lambda row: -row.loss)[:ROWS])

    def _loss(self, row: TokenizedRow) -> float:
        batch = on_device(self._objective.collate([row]), next(self._model.parameters()).device)
        return float(self._objective.summed(self._model, batch).loss.item() / max(1, self._objective.weight(row)))
