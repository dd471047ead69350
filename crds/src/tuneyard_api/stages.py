"""What a stage is: said here once, read by operator, trainer, chart and plugin.

The order of STAGES is the order in which they run. A stage's output is addressed by what it depends on: its version,
the part of the spec that it reads, and the digests of the stages that it builds on.
"""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from tuneyard_api.contracts.artifact import canonical_json
from tuneyard_api.contracts.results import (
    EvaluateResult,
    ExportResult,
    PrepareResult,
    PublishResult,
    StageResult,
    TrainResult,
)
from tuneyard_api.contracts.termination import EvaluateReport, PrepareReport, PublishReport, StageReport, TrainReport
from tuneyard_api.kinds.finetunejob import FineTuneJobSpec
from tuneyard_api.kinds.finetunejob_status import Phase
from tuneyard_api.names import Stage
from tuneyard_api.registry import BACKENDS

SpecPart = Callable[[FineTuneJobSpec], dict[str, Any]]


class StageDefinition(NamedTuple):
    """One stage of the chain."""

    name: Stage
    phase: Phase
    """Of the FineTuneJob while the stage runs."""
    condition: str
    """The type of the condition that says whether the stage is done."""
    version: int
    """Raised when the same input begins to give another output."""
    spec_part: SpecPart
    """The part of the spec that the output depends on, as JSON."""
    after: tuple[Stage, ...]
    """The stages whose output it reads."""
    result: type[StageResult]
    """What it writes into its commit mark."""
    report: type[StageReport] | None = None
    """What the operator reads from its termination message."""
    report_required: bool = False
    """Whether the operator cannot go on without the report."""
    is_needed: Callable[[FineTuneJobSpec], bool] = lambda spec: True
    on_gpu: bool = False
    """Whether it runs with spec.resources; all others run on the CPU, in one pod."""
    has_checkpoints: bool = False
    """Whether it resumes from checkpoints, which no two of its pods may write at once."""
    image: Callable[[FineTuneJobSpec], str] = lambda spec: "trainer"
    """The role of its image in the operator's settings."""
    queued: bool = False
    """Whether its Job waits in spec.queueName."""
    adoptable: bool = True
    """Whether its Job is skipped where its commit mark exists."""
    grace_seconds: int = 30
    """Between SIGTERM and SIGKILL."""


def _prepare_part(spec: FineTuneJobSpec) -> dict[str, Any]:
    training: dict[str, Any] = {"maxLength": spec.training.max_length, "seed": spec.training.seed}
    if spec.training.dpo:
        training["pairs"] = True
    if not spec.trains:
        training["method"] = spec.training.method
    return {"model": spec.model.wire(), "dataset": spec.rows.wire(), "training": training}


# Of spec.training: they change how safely a run gets to its result, not the result.
WITHOUT_EFFECT: Final = ("checkpoints", "oomRecovery", "tracking")


def _train_part(spec: FineTuneJobSpec) -> dict[str, Any]:
    training = {name: value for name, value in spec.training.wire().items() if name not in WITHOUT_EFFECT}
    if not spec.training.stream_weights:
        del training["streamWeights"]  # runs that ended before the field existed are reused
    if spec.training.use_liger_kernel:
        del training["useLigerKernel"]  # the same
    training["packing"] = spec.training.packing is not False  # as it was written when true was the default
    return {"training": training}


def _evaluate_part(spec: FineTuneJobSpec) -> dict[str, Any]:
    return {"evaluation": spec.evaluation.wire() | {"gates": [gate.wire() for gate in spec.gates]}}


STAGES: Final[dict[Stage, StageDefinition]] = {
    stage.name: stage
    for stage in (
        StageDefinition(
            name="prepare",
            phase="Preparing",
            condition="DatasetReady",
            version=6,
            spec_part=_prepare_part,
            after=(),
            result=PrepareResult,
            report=PrepareReport,
            report_required=True,
            adoptable=False,
        ),
        StageDefinition(
            name="train",
            phase="Training",
            condition="Trained",
            version=2,
            spec_part=_train_part,
            after=("prepare",),
            result=TrainResult,
            report=TrainReport,
            is_needed=lambda spec: spec.trains,
            on_gpu=True,
            has_checkpoints=True,
            image=lambda spec: BACKENDS[spec.training.backend].image,
            queued=True,
            grace_seconds=120,  # to finish a step and write a checkpoint
        ),
        StageDefinition(
            name="export",
            phase="Exporting",
            condition="Exported",
            version=6,
            spec_part=lambda spec: {"export": spec.export.wire()},
            after=("prepare", "train"),
            result=ExportResult,
            is_needed=lambda spec: bool(spec.export.formats),
        ),
        StageDefinition(
            name="evaluate",
            phase="Evaluating",
            condition="Evaluated",
            version=5,
            spec_part=_evaluate_part,
            after=("prepare", "export"),
            result=EvaluateResult,
            report=EvaluateReport,
            is_needed=lambda spec: bool(spec.export.formats) and spec.evaluates,
        ),
        StageDefinition(
            name="publish",
            phase="Publishing",
            condition="Published",
            version=3,
            spec_part=lambda spec: {},
            after=("prepare", "train", "export", "evaluate"),
            result=PublishResult,
            report=PublishReport,
            report_required=True,
            adoptable=False,
        ),
    )
}


def chain(spec: FineTuneJobSpec) -> tuple[StageDefinition, ...]:
    """The stages that a job runs, in order: those that its spec needs."""
    return tuple(stage for stage in STAGES.values() if stage.is_needed(spec))


def stage_digests(spec: FineTuneJobSpec, sources: Mapping[str, Any]) -> dict[Stage, str]:
    """The digest (64 hex digits) of every stage of the chain: known before anything has run.

    A digest covers the stage's name, its version, the part of the spec that it reads and the digests of the stages that
    it builds on. Resources, credentials, names and output.uri are in none: they do not change what is made.

    Args:
        sources: what prepare reads: the model's files and the data's content, as JSON.
    """
    digests: dict[Stage, str] = {}
    for stage in chain(spec):
        document = {
            "stage": stage.name,
            "version": stage.version,
            "spec": stage.spec_part(spec),
            "inputs": _inputs(stage, digests) or dict(sources),
        }
        digests[stage.name] = hashlib.sha256(canonical_json(document)).hexdigest()
    return digests


def _inputs(stage: StageDefinition, digests: Mapping[Stage, str]) -> dict[Stage, str]:
    """The digests of the stages before; in place of one that is not part of the chain, of those before it."""
    inputs: dict[Stage, str] = {}
    for name in stage.after:
        inputs |= {name: digests[name]} if name in digests else _inputs(STAGES[name], digests)
    return inputs
