"""Where a run is on the ladder of backends/ladder.py: remembered beside its checkpoints, and for later runs."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from tuneyard_api import reasons
from tuneyard_api.contracts.artifact import canonical_json
from tuneyard_api.contracts.base import Contract
from tuneyard_api.contracts.termination import TrainReport, shortened
from tuneyard_api.kinds.finetunejob import FineTuneJobSpec
from tuneyard_api.kinds.finetunejob_status import MemoryRung, TrainingStatus
from tuneyard_store.errors import ObjectNotFound
from tuneyard_trainer.backends.base import Backend
from tuneyard_trainer.backends.ladder import Rung, ladder
from tuneyard_trainer.runtime.context import StageContext
from tuneyard_trainer.runtime.errors import DoesNotFit, sentence

CAUSE_CHARACTERS: Final = 200
POD_KILLED: Final = "the pod was killed because it used more memory than its limit"
# Of spec.training, what does not change the memory that a run needs.
WITHOUT_EFFECT: Final = (
    *("epochs", "maxSteps", "learningRate", "scheduler", "warmupRatio", "evalSteps", "keep", "earlyStopping", "seed"),
    *("checkpoints", "oomRecovery", "tracking"),
)


class RungRecord(Contract):
    """rung.json beside the checkpoints: written before a rung is tried."""

    rung: int = 0
    pods_killed: int = 0
    """Pods of this stage that the kernel had killed for their memory when the rung was begun."""
    taken: list[MemoryRung] = []


class KnownRung(Contract):
    """memory/<shape>.json in the output: the rung that sufficed for runs of this shape."""

    rung: int


class Rungs:
    """The ladder of one run, and its place there."""

    def __init__(self, context: StageContext, rungs: Sequence[Rung], shape: str) -> None:
        self._context, self._rungs = context, rungs
        self._uri = context.uri("train", "checkpoints", "rung.json")
        self._known_uri = f"{context.spec.output.uri.rstrip('/')}/memory/{shape}.json"
        self._record = self._begin()

    @classmethod
    def of(cls, context: StageContext, backend: Backend, model: Path, longest_row: int) -> "Rungs":
        """The ladder of the job; with several nodes, which would have to agree, only the settings of the spec."""
        spec = context.spec
        rungs = ladder(spec.training, spec.resources.devices, spec.resources.gpus > 0, backend.memory_savers)
        if not spec.training.oom_recovery or context.group.nodes > 1:
            rungs = rungs[:1]
        return cls(context, rungs, shape_of(spec, (model / "config.json").read_bytes(), longest_row))

    @property
    def rung(self) -> Rung:
        return self._rungs[self._record.rung]

    @property
    def taken(self) -> list[MemoryRung]:
        """The rungs that this run has climbed, in all its pods."""
        return self._record.taken

    def climb(self, error: DoesNotFit) -> None:
        """Goes one rung higher.

        Raises:
            DoesNotFit: this is the highest one; or the error itself where there is no ladder.
        """
        if len(self._rungs) == 1:
            raise error
        self._raise_to_next(error.message)
        self._write()

    def worked(self) -> None:
        """Remembers the rung for later runs of this shape."""
        if self._record.rung:
            known = KnownRung(rung=self._record.rung).model_dump_json().encode()
            self._context.store.write(self._known_uri, known, "application/json")

    def _begin(self) -> RungRecord:
        known = self._read(self._known_uri, KnownRung)
        highest = len(self._rungs) - 1
        self._record = self._read(self._uri, RungRecord) or RungRecord(rung=min(known.rung, highest) if known else 0)
        self._record = self._record.model_copy(update={"rung": min(self._record.rung, highest)})
        if highest and self._context.pods_killed > self._record.pods_killed:
            self._raise_to_next(POD_KILLED)
        self._record = self._record.model_copy(update={"pods_killed": self._context.pods_killed})
        if highest:
            self._write()
            self._context.log.info("memory: rung %d of %d: %s", self._record.rung, highest, self.rung.change)
        return self._record

    def _raise_to_next(self, cause: str) -> None:
        number = self._record.rung + 1
        if number == len(self._rungs):
            raise self._at_the_top(cause)
        taken = MemoryRung(change=self._rungs[number].change, cause=shortened(cause, CAUSE_CHARACTERS))
        self._record = self._record.model_copy(update={"rung": number, "taken": [*self.taken, taken]})
        self._context.log.warning("out of memory (%s): the run goes on with %s", cause, taken.change)
        self._context.progress.update(message=f"out of memory: goes on with {taken.change}")

    def _at_the_top(self, cause: str) -> DoesNotFit:
        tried = "; ".join(rung.change for rung in self._rungs[1:])
        training = TrainingStatus(steps=0, kept_step=0, rungs=self.taken)
        return DoesNotFit(
            reasons.OUT_OF_MEMORY,
            f"{sentence(cause)} This was tried in vain: {tried}",
            "Lower training.maxLength, set training.method: qlora, or use GPUs with more memory (without GPUs raise "
            "resources.limits.memory).",
            TrainReport.of_status(training),
        )

    def _write(self) -> None:
        self._context.store.write(self._uri, self._record.model_dump_json(by_alias=True).encode(), "application/json")

    def _read(self, uri: str, kind: Any) -> Any:
        try:
            return kind.model_validate_json(self._context.store.read(uri))
        except (ObjectNotFound, ValidationError):
            return None


def shape_of(spec: FineTuneJobSpec, config: bytes, longest_row: int) -> str:
    """Runs of the same shape need the same memory: the model's configuration, the rows' length, and the device."""
    training: Mapping[str, Any] = {
        name: value for name, value in spec.training.wire().items() if name not in WITHOUT_EFFECT
    }
    document = {
        "model": hashlib.sha256(config).hexdigest(),
        "training": training,
        "longestRow": longest_row,
        "resources": spec.resources.wire(),
    }
    return hashlib.sha256(canonical_json(document)).hexdigest()
