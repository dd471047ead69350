"""Which artifact a ModelServer is to serve."""

import json
from typing import Final, NamedTuple

from tuneyard_api.base import SecretRef
from tuneyard_api.kinds.modelserver import FineTuneJobRef, ServedModelSource
from tuneyard_api.runs import run_has_succeeded
from tuneyard_operator.machinery.objects import Json, condition

ANNOTATION: Final = "tuneyard.dev/artifact"

WAITING: Final = "WaitingForFineTuneJob"
GATES_FAILED: Final = "GateFailed"
NOT_EXPORTED: Final = "FormatNotExported"


class Artifact(NamedTuple):
    uri: str
    digest: str
    format: str | None = None
    secret: str | None = None

    @property
    def secret_ref(self) -> SecretRef | None:
        return SecretRef(name=self.secret) if self.secret else None

    def text(self) -> str:
        return json.dumps(self._asdict(), sort_keys=True)

    def wire(self) -> Json:
        """As status.release has it."""
        secret = {"name": self.secret} if self.secret else None
        entry = {"uri": self.uri, "digest": self.digest, "format": self.format, "secretRef": secret}
        return {key: value for key, value in entry.items() if value is not None}


class Missing(NamedTuple):
    """There is no artifact to serve yet."""

    reason: str
    message: str


def find_artifact(source: ServedModelSource, job: Json | None) -> Artifact | Missing:
    """`job` is the FineTuneJob that the source refers to, if there is one."""
    if reference := source.fine_tune_job_ref:
        found = _of_job(reference, job)
        return _with_own_secret(found, source) if isinstance(found, Artifact) else found
    return Artifact(source.uri or "", source.digest or "", secret=source.secret_ref.name if source.secret_ref else None)


def last_release(source: ServedModelSource, status: Json, serving: Json | None) -> Artifact | None:
    """What was asked for before; `serving` is the Deployment that tells it where the status was lost."""
    if release := status.get("release"):
        return _with_own_secret(_remembered(release), source)
    return _with_own_secret(artifact_of(serving), source) if serving else None


def _remembered(release: Json) -> Artifact:
    """As `wire` has written it."""
    return Artifact(release["uri"], release["digest"], release.get("format"), release.get("secretRef", {}).get("name"))


def _with_own_secret(artifact: Artifact, source: ServedModelSource) -> Artifact:
    """The ModelServer's, where it names one, or else the FineTuneJob's."""
    own = source.secret_ref
    return artifact._replace(secret=own.name) if own else artifact


def _of_job(reference: FineTuneJobRef, job: Json | None) -> Artifact | Missing:
    if job is None:
        return Missing(WAITING, f"FineTuneJob {reference.name} does not exist in this namespace")
    status = job.get("status", {})
    if not run_has_succeeded(job):
        failed = condition(job, "Failed")
        state = f"failed: {failed['reason']}" if failed else f"is {status.get('phase', 'Pending')}"
        return Missing(WAITING, f"FineTuneJob {reference.name} {state}")
    if not all(gate["passed"] for gate in status.get("evaluation", {}).get("gates", [])):
        return Missing(GATES_FAILED, f"the release of FineTuneJob {reference.name} did not pass its gates")
    return _release(reference, job)


def _release(reference: FineTuneJobRef, job: Json) -> Artifact | Missing:
    status = job["status"]
    wanted = status["recommended"]["format"] if reference.format == "recommended" else reference.format
    found = next((each for each in status.get("artifacts", []) if each["format"] == wanted), None)
    if found is None:
        message = f"FineTuneJob {reference.name} has no artifact {wanted}: add it to its export.formats"
        return Missing(NOT_EXPORTED, message)
    secret = job["spec"]["output"].get("secretRef", {}).get("name")
    return Artifact(found["uri"], found["digest"], wanted, secret)


def artifact_of(deployment: Json) -> Artifact:
    """As it was written into the Deployment of a revision."""
    return Artifact(**json.loads(deployment["metadata"]["annotations"][ANNOTATION]))
