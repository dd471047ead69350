"""The metrics of each step, in the words of Hugging Face: event files for TensorBoard, and events for the stage.

tensorboardX imports torch wherever it is installed, so that only workers import it.
"""

import math
from collections.abc import Mapping
from pathlib import Path

from tensorboardX import SummaryWriter

from tuneyard_api.contracts.requests import MetricsLogged
from tuneyard_trainer.runtime.worker_main import emit


class Scalars:
    """Of one process of a training, the first of all."""

    def __init__(self, directory: Path, done: int) -> None:
        """
        Args:
            directory: gets an event file.
            done: steps of the run before this process. TensorBoard hides what an earlier file has of later ones.
        """
        self._writer = SummaryWriter(str(directory), purge_step=done + 1 if done else 0)

    def log(self, step: int, metrics: Mapping[str, float | None]) -> None:
        """Leaves out what is not known, and what is no finite number."""
        known = {name: float(value) for name, value in metrics.items() if value is not None and math.isfinite(value)}
        for name, value in known.items():
            self._writer.add_scalar(name, value, step)
        emit(MetricsLogged(step=step, metrics=known))

    def flush(self) -> None:
        """Writes to the disk what was logged."""
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
