"""Objects as the API server shows them: pure builders."""

from datetime import UTC, datetime
from typing import Any, Final

from tuneyard_api.names import API_VERSION
from tuneyard_api.runs import revision
from tuneyard_operator.machinery.objects import Json, name, namespace, owner_reference, uid
from tuneyard_operator.settings import Settings

NOW: Final = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
SETTINGS: Final = Settings(trainer_image="trainer:1", server_image="server:1")
NAMESPACE: Final = "team"
# Digests of artifacts.
OLD, NEW, NEWEST = (f"sha256:{digit * 64}" for digit in "abc")

FOREIGN_SERVICE: Final[Json] = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "bot", "namespace": NAMESPACE},
    "spec": {"selector": {"app": "another"}},
}


def fine_tune_job(name: str = "x", **spec: Any) -> Json:
    """A FineTuneJob with the fields that a spec must have, and those that are given."""
    parts: Json = {
        "model": {"uri": "s3://models/m"},
        "dataset": {"train": [{"uri": "s3://data/d.jsonl"}]},
        "output": {"uri": "s3://out", "secretRef": {"name": "keys"}},
    }
    metadata: Json = {
        "name": name,
        "namespace": NAMESPACE,
        "uid": f"uid-{name}",
        "generation": 1,
        "labels": {"argocd.argoproj.io/instance": "app", "team": "a"},
        "annotations": {"argocd.argoproj.io/tracking-id": "app:x"},
    }
    return {"apiVersion": API_VERSION, "kind": "FineTuneJob", "metadata": metadata, "spec": parts | spec}


def model_server(model: Json, **spec: Any) -> Json:
    metadata = {"name": "bot", "namespace": NAMESPACE, "uid": "uid-bot", "generation": 1}
    return {"apiVersion": API_VERSION, "kind": "ModelServer", "metadata": metadata, "spec": {"model": model} | spec}


def artifact(digest: str) -> Json:
    """The model of a ModelServer that names an artifact."""
    return {"uri": "s3://artifacts/x", "digest": digest}


def release(job: Json, digest: str = OLD, **status: Any) -> Json:
    """The status of a FineTuneJob that has released an artifact in two formats."""
    return {
        "revision": revision(job),
        "phase": "Succeeded",
        "conditions": [{"type": "Succeeded", "status": "True"}],
        "artifacts": [{"format": form, "uri": f"s3://a/{form}", "digest": digest} for form in ("bf16", "int8")],
        "recommended": {"format": "int8"},
        **status,
    }


def released(digest: str = OLD, **status: Any) -> Json:
    job = fine_tune_job("tune")
    return job | {"status": release(job, digest, **status)}


def pod(owner: Json, number: int, index: int | None = None) -> Json:
    """A pod that the controller of a Job or Deployment creates from its template; `index`: of an Indexed Job."""
    template = owner["spec"]["template"]
    annotations = {"batch.kubernetes.io/job-completion-index": str(index)} if index is not None else {}
    metadata: Json = {
        "name": f"{name(owner)}-{number}",
        "namespace": namespace(owner),
        "labels": dict(template["metadata"]["labels"]),
        "annotations": annotations,
        "ownerReferences": [owner_reference(owner)],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"], "status": {}}


def warning(about: Json, reason: str, message: str) -> Json:
    """The event that a controller emits about an object."""
    involved = {"kind": about["kind"], "namespace": namespace(about), "name": name(about), "uid": uid(about)}
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{name(about)}.{reason}", "namespace": namespace(about)},
        "involvedObject": involved,
        "type": "Warning",
        "reason": reason,
        "message": message,
    }
