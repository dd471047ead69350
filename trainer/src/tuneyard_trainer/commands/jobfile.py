"""FineTuneJobs in files: read, validated, and their mistakes told in the words of the file."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from tuneyard_api import names, reasons
from tuneyard_api.kinds.finetunejob import FineTuneJobSpec
from tuneyard_trainer.runtime.errors import BadInput

KIND: Final = "FineTuneJob"
MISSING_ADVICE: Final = f"Give a file with a document of apiVersion {names.API_VERSION} and kind {KIND}."
MILLI: Final = 1000


class FineTuneJob(NamedTuple):
    name: str
    spec: FineTuneJobSpec


def read_job_json(path: Path) -> FineTuneJob:
    """The job as the operator mounts it into a stage's pod."""
    return parse_job(json.loads(path.read_text()), str(path))


def read_job_yaml(path: Path) -> FineTuneJob:
    """The one FineTuneJob of a file that may hold other documents too.

    Raises:
        BadInput: the file cannot be read, or it holds none, several, or one that is wrong.
    """
    try:
        documents = [each for each in yaml.safe_load_all(path.read_text()) if each is not None]
    except OSError as error:
        raise BadInput(reasons.INVALID_SPEC, f"{path} cannot be read: {error.strerror}", MISSING_ADVICE) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInput(reasons.INVALID_SPEC, f"{path} is not YAML: {error}", "Correct it there.") from error
    jobs = [each for each in documents if isinstance(each, dict) and each.get("kind") == KIND]
    if len(jobs) != 1:
        raise BadInput(reasons.INVALID_SPEC, f"{path} has {len(jobs)} documents of kind {KIND}", MISSING_ADVICE)
    if jobs[0].get("apiVersion") != names.API_VERSION:
        raise BadInput(reasons.INVALID_SPEC, f"{path}: apiVersion is {jobs[0].get('apiVersion')}", MISSING_ADVICE)
    return parse_job(jobs[0], str(path))


def parse_job(document: Mapping[str, Any], where: str) -> FineTuneJob:
    """Raises BadInput with one line per mistake."""
    try:
        spec = FineTuneJobSpec.model_validate(document.get("spec"))
    except ValidationError as error:
        lines = [describe(each) for each in error.errors(include_url=False)]
        raise BadInput(
            reasons.INVALID_SPEC, f"{where}: " + "; ".join(lines), "Correct the fields named above."
        ) from error
    problems = check_rules(spec)
    if problems:
        raise BadInput(reasons.INVALID_SPEC, f"{where}: " + "; ".join(problems), "Correct the fields named above.")
    return FineTuneJob(str((document.get("metadata") or {}).get("name") or "finetunejob"), spec)


def describe(error: ErrorDetails) -> str:
    """One mistake: the field's path in the file, what is wrong, what it is."""
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error["loc"])
    told = {"extra_forbidden": "there is no such field", "missing": "is required"}.get(error["type"])
    if told:
        return f"spec{path}: {told}"
    given = json.dumps(error["input"], default=str)
    return f"spec{path}: {error['msg'].lower()}, got {given if len(given) < 80 else given[:77] + '...'}"


def check_rules(spec: FineTuneJobSpec) -> list[str]:
    """What the API server checks by the CRD's rules, for those who have none."""
    problems = []
    validation, training = spec.dataset.validation, spec.training
    if (validation.uri is None) == (validation.fraction is None):
        problems.append("spec.dataset.validation: takes exactly one of uri and fraction")
    if training.epochs is not None and training.max_steps is not None:
        problems.append("spec.training: takes epochs or maxSteps, not both")
    return problems


def cpu_threads(spec: FineTuneJobSpec) -> int | None:
    """CPU threads of a run: the cpu limit, else the request, rounded up; None: as many as the machine has."""
    for given in (spec.resources.limits, spec.resources.requests):
        cpu = (given or {}).get("cpu")
        if cpu is not None:
            text = str(cpu)
            return max(1, math.ceil(int(text[:-1]) / MILLI if text.endswith("m") else float(text)))
    return None
