"""The metrics of each step, in the words of Hugging Face: event files for TensorBoard, and events for the stage.

tensorboardX imports torch wherever it is installed, so that only workers import it. Of it only the records are used:
its SummaryWriter hands them to a thread, which has not written all of them at a checkpoint, and whose end, when the
disk is full, would stop the training.
"""

import math
import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import RecordWriter

from tuneyard_api.contracts.requests import MetricsLogged
from tuneyard_trainer.runtime.worker_main import emit


class Scalars:
    """Of one process of a training, the first of all. A disk that is full costs the event file, not the training."""

    def __init__(self, directory: Path, done: int) -> None:
        """
        Args:
            directory: gets an event file, whose name sorts behind those of earlier processes.
            done: steps of the run before this process. TensorBoard hides what an earlier file has of later ones.
        """
        directory.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns() // 1000:016d}.{socket.gethostname()}.{os.getpid()}"
        self._writer = RecordWriter(str(directory / name))
        self._write(file_version="brain.Event:2")
        self._write(step=done + 1 if done else 0, session_log=SessionLog(status=SessionLog.START))

    def log(self, step: int, metrics: Mapping[str, float | None]) -> None:
        """Leaves out what is not known, and what is no finite number."""
        known = {name: float(value) for name, value in metrics.items() if value is not None and math.isfinite(value)}
        values = [Summary.Value(tag=name, simple_value=value) for name, value in known.items()]
        self._write(step=step, summary=Summary(value=values))
        emit(MetricsLogged(step=step, metrics=known))

    def flush(self) -> None:
        """Writes to the disk what was logged."""
        if self._writer:
            try:
                self._writer.flush()
            except OSError as error:
                self._give_up(error)

    def close(self) -> None:
        self.flush()
        if self._writer:
            self._writer.close()
            self._writer = None

    def _write(self, **content: object) -> None:
        if self._writer:
            try:
                self._writer.write(Event(wall_time=time.time(), **content).SerializeToString())
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        print(f"No more metrics are written into the event file for TensorBoard: {error.strerror}.")
        with suppress(OSError):
            self._writer.close()
        self._writer = None
