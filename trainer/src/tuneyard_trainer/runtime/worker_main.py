"""The worker's side of a worker process: reads its request, does the work, sends events to the stage.

A line of standard output that holds a record separator (as in RFC 7464) is an event in JSON after it; everything else
is the worker's log. This works through torchrun, and between Python environments.
"""

import gc
import logging
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from tuneyard_api import reasons
from tuneyard_api.contracts.base import Contract
from tuneyard_api.contracts.requests import WorkerEvent, WorkerFailed, WorkerRequest, WorkerResult
from tuneyard_trainer.runtime.errors import StageError, disk_full

RECORD: Final = "\x1e"

Request = TypeVar("Request", bound=WorkerRequest)


def emit(event: WorkerEvent) -> None:
    """Sends one event to the stage."""
    sys.stdout.write(f"{RECORD}{event.model_dump_json(by_alias=True)}\n")
    sys.stdout.flush()


def worker_main(request: type[Request], work: Callable[[Request], Contract | None]) -> None:
    """Runs a worker program: its first argument is a JSON file with the request.

    The outcome that `work` returns is sent as the result; of several processes only one returns an outcome.
    """
    # It advises to install kernels that it would download from the internet.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    gc.freeze()  # what was imported stays
    gc.enable()
    try:
        outcome = work(request.model_validate_json(Path(sys.argv[1]).read_bytes()))
    except Exception as error:
        emit(_failed(error))
        sys.exit(1)
    if outcome is not None:
        emit(WorkerResult(result=outcome.wire()))


def _failed(error: Exception) -> WorkerFailed:
    error = disk_full(error) or error
    if isinstance(error, StageError):
        kind, reason = type(error).__name__, error.reason
        return WorkerFailed(pid=os.getpid(), kind=kind, reason=reason, message=error.message, advice=error.advice)
    traceback.print_exception(error)
    return WorkerFailed(
        pid=os.getpid(),
        kind=StageError.__name__,
        reason=reasons.STAGE_CRASHED,
        message=traceback.format_exception_only(error)[-1].strip(),
        advice="See the pod's log.",
    )
