"""Reads and validates FineTuneJobs in files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from tuneyard_api import names, reasons
from tuneyard_api.kinds.finetunejob import FINE_TUNE_JOB, FineTuneJobSpec
from tuneyard_api.validation import explain, problems
from tuneyard_trainer.runtime.errors import BadInput

KIND: Final = "FineTuneJob"
MISSING_ADVICE: Final = f"Give a file with a document of apiVersion {names.API_VERSION} and kind {KIND}."


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
        documents = [document for document in yaml.safe_load_all(path.read_text()) if document is not None]
    except OSError as error:
        raise BadInput(reasons.INVALID_SPEC, f"{path} cannot be read: {error.strerror}", MISSING_ADVICE) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: no UTF-8, or no such date
        raise BadInput(reasons.INVALID_SPEC, f"{path} is not YAML: {error}", "Correct it there.") from error
    jobs = [item for item in documents if isinstance(item, dict) and item.get("kind") == KIND]
    if len(jobs) != 1:
        raise BadInput(reasons.INVALID_SPEC, f"{path} has {len(jobs)} documents of kind {KIND}", MISSING_ADVICE)
    if jobs[0].get("apiVersion") != names.API_VERSION:
        raise BadInput(reasons.INVALID_SPEC, f"{path}: apiVersion is {jobs[0].get('apiVersion')}", MISSING_ADVICE)
    return parse_job(jobs[0], str(path))


def parse_job(document: Mapping[str, Any], where: str) -> FineTuneJob:
    """Raises BadInput that names every mistake."""
    metadata = document.get("metadata")
    name = str((metadata.get("name") if isinstance(metadata, dict) else None) or "finetunejob")
    if found := problems(FINE_TUNE_JOB, {**document, "metadata": {"name": name}}):
        raise BadInput(reasons.INVALID_SPEC, f"{where}: {explain(found)}", "Correct the fields named above.")
    return FineTuneJob(name, FineTuneJobSpec.model_validate(document["spec"]))
