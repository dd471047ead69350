"""What a stage works with: the job, the store, and the results of the stages before it."""

import logging
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tuneyard_api import reasons
from tuneyard_api.contracts.base import Contract
from tuneyard_api.contracts.results import STAGE_MARK, StageMark, StageResult, stage_uri
from tuneyard_api.kinds.finetunejob import FineTuneJobSpec
from tuneyard_api.kinds.finetunejob_status import FitStatus
from tuneyard_api.names import Stage
from tuneyard_api.stages import STAGES
from tuneyard_store.errors import ObjectNotFound
from tuneyard_store.store import Store
from tuneyard_trainer.runtime.errors import StageError
from tuneyard_trainer.runtime.progress import Progress
from tuneyard_trainer.runtime.rendezvous import SINGLE_NODE, Group

Result = TypeVar("Result", bound=Contract)


@dataclass
class StageContext:
    """One run of one stage."""

    stage: Stage
    name: str
    """Of the FineTuneJob."""
    spec: FineTuneJobSpec
    store: Store
    work: Path
    """A directory on this machine."""
    digests: dict[Stage, str] = field(default_factory=dict)
    """Of all stages of the chain; prepare computes them."""
    threads: int | None = None
    fit: FitStatus | None = None
    """The memory that the training needs; prepare estimates it."""
    pods_killed: int = 0
    """Earlier pods of the stage that the kernel killed because they used more memory than their limit."""
    tracking: dict[str, str] = field(default_factory=dict)
    """The keys and values of the Secret that spec.training.tracking names, or variables of `tuneyard run`."""
    group: Group = SINGLE_NODE
    """The pods that run this stage together."""
    progress: Progress = field(default_factory=lambda: Progress(""))
    stopping: threading.Event = field(default_factory=threading.Event)
    """Set when the pod was asked to stop."""
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("tuneyard"))

    def uri(self, stage: Stage, *parts: str) -> str:
        """Where the output of a stage of this run lies."""
        return stage_uri(self.spec.output.uri, self.digests[stage], stage, *parts)

    def find_result(self, result: type[Result]) -> Result | None:
        """The result in the commit mark of the stage whose result has this type; None where there is no mark.

        Raises:
            StageError: the mark cannot be read.
        """
        uri = self.uri(stage_of(result), STAGE_MARK)
        try:
            return result.model_validate(StageMark[Any].model_validate_json(self.store.read(uri)).result)
        except ObjectNotFound:
            return None
        except ValueError as error:
            advice = f"Delete {uri}: the stage runs again."
            raise StageError(reasons.ARTIFACT_CORRUPT, f"{uri} is no commit mark: {error}", advice) from error

    def result_of(self, result: type[Result]) -> Result:
        """The result of an earlier stage, found by its type: result_of(TrainResult) is what train has written.

        Raises:
            StageError: the stage has no commit mark.
        """
        found = self.find_result(result)
        if found is None:
            uri = self.uri(stage_of(result), STAGE_MARK)
            raise StageError(
                reasons.ARTIFACT_NOT_FOUND, f"{uri} does not exist", "Change spec.rerun and apply the job again."
            )
        return found

    def commit(self, result: StageResult) -> None:
        """Writes the commit mark, after everything else that the stage has written."""
        stage = self.stage
        mark: StageMark[StageResult] = StageMark(
            stage=stage, version=STAGES[stage].version, digest=self.digests[stage], result=result
        )
        text = mark.model_dump_json(by_alias=True, exclude_none=True, indent=1)
        self.store.write(self.uri(stage, STAGE_MARK), text.encode(), "application/json")


def stage_of(result: type[Contract]) -> Stage:
    """The stage that writes results of this type."""
    return next(stage.name for stage in STAGES.values() if stage.result is result)
