"""What starts a FineTuneJob again: the last sentence of a failure, and of a wait that a change of the spec ends."""

import re
from typing import Final

from tuneyard_api import reasons
from tuneyard_api.kinds.finetunejob import REPLACE, RESTING
from tuneyard_operator.finetunejob.run import Failure, Run
from tuneyard_operator.finetunejob.status import phase
from tuneyard_operator.machinery.objects import Json, name, namespace

CHANGE_SPEC: Final = "Change the spec and apply it again."
REPLACE_IT: Final = f"Set onSpecChange: {REPLACE} with a change of the spec."
# The remedy is in the spec alone.
IN_SPEC: Final = frozenset(
    {
        reasons.INVALID_SPEC,
        reasons.OUT_OF_MEMORY,
        reasons.OOM_KILLED,
        reasons.TRAINING_DIVERGED,
        reasons.UNFIT,
        reasons.FORMAT_DOES_NOT_FIT,
        reasons.RESULT_TOO_LARGE,
    }
)
# The remedy is a Secret, the store or the cluster: the spec may stay as it is.
OUTSIDE: Final = frozenset(
    {
        reasons.CREDENTIALS_MISSING,
        reasons.INVALID_CREDENTIALS,
        reasons.ACCESS_DENIED,
        reasons.UNTRUSTED_CERTIFICATE,
        reasons.OUTPUT_NOT_WRITABLE,
        reasons.MODEL_WEIGHTS_MISSING,
        reasons.GPU_NOT_VISIBLE,
        reasons.REASON_LOST,
        reasons.RESULT_LOST,
    }
)
SPEC: Final = re.compile(r"\bspec\b")


def with_remedy(run: Run, job: Json) -> Run:
    """The run whose message also says what starts the job again."""
    if run.failure:
        return run._replace(failure=_restarted(run.failure, job))
    return _changed(run, job)


def _restarted(failure: Failure, job: Json) -> Failure:
    retry = f"kubectl tuneyard retry {name(job)} -n {namespace(job)}"
    if failure.reason in IN_SPEC:
        text = CHANGE_SPEC
    elif failure.reason in OUTSIDE:
        text = f"Then: {retry}"
    else:
        text = f"Then apply the changed spec, or without a change: {retry}"
    return failure._replace(message=f"{_sentence(failure.message)} {text}")


def _changed(run: Run, job: Json) -> Run:
    """The API server refuses a change while a stage waits, as while it runs, once prepare has started."""
    current = run.current
    if current is None or current.state != "Pending" or not current.message or phase(run) in RESTING:
        return run
    if job["spec"].get("onSpecChange") == REPLACE or not SPEC.search(current.message):
        return run
    text = f"{_sentence(current.message.removesuffix(REPLACE_IT))} {REPLACE_IT}"
    return run.with_stage(current._replace(message=text))


def _sentence(text: str) -> str:
    text = text.rstrip()
    return text if text.endswith((".", "?", "!")) else f"{text}."
