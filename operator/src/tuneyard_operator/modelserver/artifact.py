"""Which artifact a ModelServer serves: the one that its spec names, or a release of the FineTuneJob that it follows."""

import json
from typing import Final, NamedTuple

from tuneyard_api import reasons
from tuneyard_api.kinds.modelserver import FineTuneJobRef, ModelServerSpec, Release, ServedModelSource
from tuneyard_api.registry import loads
from tuneyard_api.runs import run_has_succeeded
from tuneyard_operator.machinery.objects import Json, condition

ANNOTATION: Final = "tuneyard.dev/artifact"


class Waiting(NamedTuple):
    """Why there is no new release to serve."""

    reason: str
    message: str


def find_release(source: ServedModelSource, job: Json | None) -> Release | Waiting:
    """The release that the source asks for. `job` is the FineTuneJob that it refers to, where that exists."""
    if reference := source.fine_tune_job_ref:
        found = _release_of_job(reference, job)
        return _with_own_secret(found, source) if isinstance(found, Release) else found
    return Release(uri=source.uri or "", digest=source.digest or "", secret_ref=source.secret_ref)


def loadable(found: Release | Waiting, spec: ModelServerSpec) -> Release | Waiting:
    """The same release, where the engine of the spec can load it."""
    if isinstance(found, Waiting) or loads(engine := spec.engine_for(found.format), found.format):
        return found
    message = (
        f"the engine {engine} cannot load {found.format}, which the FineTuneJob recommends: write engine: auto, or "
        "name another of its formats in model.fineTuneJobRef.format"
    )
    return Waiting(reasons.FORMAT_NOT_LOADABLE, message)


def last_release(source: ServedModelSource, status: Json, serving: Json | None) -> Release | None:
    """The release that was found before. `serving` is the Deployment that shows it where the status was lost."""
    if "release" in status:
        return _with_own_secret(Release.model_validate(status["release"]), source)
    return _with_own_secret(release_of(serving), source) if serving else None


def release_of(deployment: Json) -> Release:
    """The release that a revision's Deployment serves."""
    document = json.loads(deployment["metadata"]["annotations"][ANNOTATION])
    if secret := document.pop("secret", None):  # as older operators wrote it
        document["secretRef"] = {"name": secret}
    return Release.model_validate(document)


def annotation(release: Release) -> dict[str, str]:
    """The annotation of a Deployment that `release_of` reads."""
    return {ANNOTATION: json.dumps(release.wire(), sort_keys=True)}


def _with_own_secret(release: Release, source: ServedModelSource) -> Release:
    """The release with the ModelServer's own Secret, where its spec names one."""
    return release.model_copy(update={"secret_ref": source.secret_ref}) if source.secret_ref else release


def _release_of_job(reference: FineTuneJobRef, job: Json | None) -> Release | Waiting:
    if job is None:
        message = (
            f"FineTuneJob {reference.name} does not exist in this namespace: create it, or correct "
            "model.fineTuneJobRef.name"
        )
        return Waiting(reasons.WAITING_FOR_FINE_TUNE_JOB, message)
    status = job.get("status", {})
    if not run_has_succeeded(job):
        failed = condition(job, "Failed")
        phase = f"is {status.get('phase', 'Pending')}: see kubectl describe finetunejob {reference.name}"
        state = f"failed: {failed['reason']}: {failed.get('message', '')}" if failed else phase
        message = f"FineTuneJob {reference.name} {state}"
        return Waiting(reasons.WAITING_FOR_FINE_TUNE_JOB, message)
    evaluation = status.get("evaluation", {})
    if failed_gates(evaluation):
        message = (
            f"the release of FineTuneJob {reference.name} did not pass its gates{_first_failed(evaluation)}. Tune it "
            "again, change its evaluation.gates, or serve it all the same: model.uri and model.digest are in its "
            "status.artifacts"
        )
        return Waiting(reasons.GATE_FAILED, message)
    return _artifact_of_job(reference, job)


def failed_gates(evaluation: Json) -> int:
    """How many gates failed, by status.evaluation of a FineTuneJob.

    The list of gates may be shortened; the count is not. Older operators wrote no count.
    """
    if "gatesFailed" in evaluation:
        return int(evaluation["gatesFailed"])
    return sum(not gate["passed"] for gate in evaluation.get("gates", []))


def _first_failed(evaluation: Json) -> str:
    """The figures of a gate that failed; empty where an older operator wrote none."""
    gate = next((gate for gate in evaluation.get("gates", []) if not gate["passed"] and "limit" in gate), None)
    return (
        f": {gate['metric']} of {gate['subject']} is {gate['value']:g}, the gate allows {gate['limit']:g}"
        if gate
        else ""
    )


def _artifact_of_job(reference: FineTuneJobRef, job: Json) -> Release | Waiting:
    status = job["status"]
    wanted = reference.format
    if wanted == "recommended":
        wanted = status.get("recommended", {}).get("format", wanted)
    artifact = next((found for found in status.get("artifacts", []) if found["format"] == wanted), None)
    if artifact is None:
        formats = ", ".join(found["format"] for found in status.get("artifacts", [])) or "none"
        message = (
            f"FineTuneJob {reference.name} has no artifact {wanted}: add it to its export.formats, or name one that it "
            f"has in model.fineTuneJobRef.format ({formats})"
        )
        return Waiting(reasons.FORMAT_NOT_EXPORTED, message)
    secret = job["spec"]["output"].get("secretRef")
    return Release(uri=artifact["uri"], digest=artifact["digest"], format=wanted, secret_ref=secret)
