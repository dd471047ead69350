"""Where the metrics of a training go: event files for TensorBoard, and the server that spec.training.tracking names."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from tuneyard_api.contracts.requests import MetricsLogged
from tuneyard_api.kinds.finetunejob_status import MlflowStatus, TrainingStatus
from tuneyard_store.errors import StoreError
from tuneyard_trainer.runtime.context import StageContext
from tuneyard_trainer.runtime.errors import TryAgain
from tuneyard_trainer.tracking.mlflow import MlflowTracker
from tuneyard_trainer.tracking.mlflow_api import RunState

TENSORBOARD: Final = "tensorboard"
"""The folder of the event files in the train stage's output."""


class Tracked(NamedTuple):
    """What a status says of it."""

    tensorboard_uri: str | None = None
    mlflow: MlflowStatus | None = None

    def added_to(self, training: TrainingStatus) -> TrainingStatus:
        return training.model_copy(update=self._asdict())


@contextmanager
def tracked(context: StageContext, events: Path) -> "Iterator[Tracking]":
    """Ends the run in the server with the state in which the block ends; a block that succeeds ends it itself."""
    tracking = Tracking(context, events)
    try:
        yield tracking
    except TryAgain:
        tracking.end("SCHEDULED")
        raise
    except BaseException:
        tracking.end("FAILED")
        raise


class Tracking:
    """The metrics of one run, in this pod. Only the pod that leads gets some. Nothing here raises."""

    def __init__(self, context: StageContext, events: Path) -> None:
        self._context, self._events = context, events
        self._uri = context.uri("train", TENSORBOARD)
        self._mlflow = MlflowTracker.of(context) if context.group.is_leader else None
        self._ended: Tracked | None = None

    def log(self, event: MetricsLogged) -> None:
        """The worker has written the event files itself."""
        if self._mlflow:
            self._mlflow.log(event)

    def upload(self) -> str | None:
        """Writes the event files into the store, and returns where they are.

        They grow, so those of this pod are written each time; those of earlier pods stay beside them."""
        try:
            files = sorted(self._events.glob("*"))
            for path in files:
                self._context.store.write(f"{self._uri}/{path.name}", path.read_bytes())
        except (StoreError, OSError) as error:
            self._context.log.warning("the event files for TensorBoard are not uploaded: %s", error)
            return None
        return self._uri if files else None

    def end(self, state: RunState) -> Tracked:
        """Uploads what there is, and leaves the run in the server as it has ended; once."""
        if self._ended is None:
            self._ended = Tracked(self.upload(), self._mlflow.end(state) if self._mlflow else None)
        return self._ended
