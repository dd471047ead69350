"""The identity of a run: what a FineTuneJob's run depends on, and nothing else, determines its revision."""

import hashlib
from typing import Any

from tuneyard_api.contracts.artifact import canonical_json
from tuneyard_api.kinds.finetunejob import CHANGEABLE
from tuneyard_api.names import ANNOTATION_RETRY

Json = dict[str, Any]


def revision(job: Json) -> str:
    """Eight hexadecimal digits that identify the run of a FineTuneJob, given as the API server's JSON.

    They cover the job's uid, so that no job of the same name has them, the part of the spec that a run depends on, and
    the annotation that asks for another try.
    """
    retry = job["metadata"].get("annotations", {}).get(ANNOTATION_RETRY)
    parts = [job["metadata"]["uid"], run_spec(job), *([retry] if retry else [])]
    return hashlib.sha256(canonical_json(parts)).hexdigest()[:8]


def run_spec(job: Json) -> Json:
    """The spec without the fields that only say when the job runs and how long it is kept."""
    return {field: value for field, value in job["spec"].items() if field not in CHANGEABLE}


def run_has_succeeded(job: Json) -> bool:
    """Whether the run that the spec asks for, and not an earlier one, has succeeded."""
    status = job.get("status", {})
    conditions = {each["type"]: each["status"] for each in status.get("conditions", [])}
    return conditions.get("Succeeded") == "True" and status.get("revision") == revision(job)
