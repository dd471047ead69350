"""Runs one stage: reuses a committed result, or runs the stage and commits its result last; returns an outcome."""

import json
import logging
import traceback
from collections.abc import Callable, Mapping
from typing import NamedTuple

from tuneyard_api import names, reasons
from tuneyard_api.contracts.results import (
    STAGE_MARK,
    EvaluateResult,
    PrepareResult,
    PublishResult,
    StageResult,
    TrainResult,
)
from tuneyard_api.contracts.termination import EvaluateReport, PrepareReport, PublishReport, StageReport, TrainReport
from tuneyard_api.names import Stage
from tuneyard_api.stages import STAGES, chain
from tuneyard_store.errors import StoreError
from tuneyard_trainer.runtime.context import StageContext
from tuneyard_trainer.runtime.errors import StageError, disk_full, from_store, printable, sentence


class StageProgram(NamedTuple):
    """What a stage does."""

    run: Callable[[StageContext], StageResult]
    """Writes the stage's output to the store; raises StageError."""
    identify: Callable[[StageContext], dict[Stage, str]] | None = None
    """Computes the digests of the chain; only the first stage does. Raises StageError."""


class Outcome(NamedTuple):
    """How a stage ended."""

    exit_code: int
    reason: str
    message: str
    advice: str = ""
    result: StageResult | None = None
    report: StageReport | None = None
    """The part of the result that the operator gets."""

    @property
    def succeeded(self) -> bool:
        return self.exit_code == names.EXIT_DONE


def run_program(context: StageContext, program: StageProgram) -> Outcome:
    """Runs a stage to its end; every exception becomes an outcome."""
    try:
        return _run(context, program)
    except Exception as error:
        return failure(error, context.log)


def _run(context: StageContext, program: StageProgram) -> Outcome:
    if program.identify:
        context.digests = program.identify(context)
    uri = context.uri(context.stage)
    result: StageResult | None = context.find_result(STAGES[context.stage].result)
    if result is not None:
        context.log.info("reusing the result of an earlier run: %s", uri)
        reason, message = reasons.ADOPTED, f"Reused from {uri}."
    else:
        result = program.run(context)
        if context.group.is_leader:
            context.commit(result)
        reason, message = reasons.COMPLETED, f"Written to {uri}."
    context.progress.update(percent=100, message="done")
    return Outcome(names.EXIT_DONE, reason, message, result=result, report=_report(context, result))


def _report(context: StageContext, result: StageResult) -> StageReport | None:
    match result:
        case PrepareResult():
            done = committed_stages(context)
            return PrepareReport(digests=context.digests, done=done, dataset=result.dataset, fit=context.fit)
        case TrainResult():
            return TrainReport.of(result)
        case EvaluateResult():
            return EvaluateReport.of(result)
        case PublishResult():
            return PublishReport.of(result)
        case _:
            return None


def committed_stages(context: StageContext) -> list[Stage]:
    """The stages after the first one that have a commit mark, up to the first that has none."""
    committed: list[Stage] = []
    for stage in chain(context.spec)[1:]:
        if not context.store.exists(context.uri(stage.name, STAGE_MARK)):
            break
        committed.append(stage.name)
    return committed


def failure(error: Exception, log: logging.Logger) -> Outcome:
    """The outcome of a stage that raised this error; an error without a reason of its own is a crash."""
    if isinstance(error, StoreError):
        error = from_store(error)
    error = disk_full(error) or error
    if isinstance(error, StageError):
        log.error("%s: %s", error.reason, error)
        message, advice = sentence(error.message), sentence(error.advice)
        return Outcome(error.exit_code, error.reason, message, advice, report=error.report)
    log.error("the stage crashed", exc_info=error)
    last_line = printable(traceback.format_exception_only(error)[-1].strip())
    return Outcome(names.EXIT_UNKNOWN, reasons.STAGE_CRASHED, sentence(last_line), "See the pod's log.")


def digests_from(environ: Mapping[str, str]) -> dict[Stage, str]:
    """The digests that prepare has computed, which the operator hands to the pods of the later stages."""
    digests: dict[Stage, str] = json.loads(environ.get(names.ENV_DIGESTS) or "{}")
    return digests
