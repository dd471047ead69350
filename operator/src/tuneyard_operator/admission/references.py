"""What an object refers to, and what is allowed but seldom meant: pure functions of a valid spec."""

from collections.abc import Iterator
from typing import NamedTuple

from tuneyard_api.base import Model, SecretRef
from tuneyard_api.kinds.finetunejob import FineTuneJobSpec
from tuneyard_api.kinds.modelserver import ModelServerSpec


class Reference(NamedTuple):
    """Another object, by its name."""

    path: str
    """The field that names it."""
    kind: str
    name: str
    missing: str
    """What happens while there is no such object."""


def references(spec: Model) -> list[Reference]:
    """The objects of the same namespace, or of the cluster, that a spec names."""
    if isinstance(spec, FineTuneJobSpec):
        return list(_of_job(spec))
    return list(_of_server(spec)) if isinstance(spec, ModelServerSpec) else []


def advice(spec: Model) -> list[str]:
    """Warnings that need no look at the cluster."""
    if isinstance(spec, FineTuneJobSpec) and spec.resources.gpus == 0:
        return ["spec.resources.gpus: 0 trains on the CPU, which takes hours where a GPU takes minutes"]
    if isinstance(spec, ModelServerSpec) and spec.auth is None:
        return [
            "spec.auth: without an API key whoever reaches the endpoint may use it. "
            "Create a Secret with a key, and write auth.apiKeySecretRef"
        ]
    return []


def _of_job(spec: FineTuneJobSpec) -> Iterator[Reference]:
    yield from _secret("spec.output.secretRef.name", spec.output.secret_ref, "the job fails with CredentialsMissing")
    if spec.training.tracking and (mlflow := spec.training.tracking.mlflow):
        path = "spec.training.tracking.mlflow.secretRef.name"
        yield from _secret(path, mlflow.secret_ref, "MLflow gets no metrics")
    if spec.queue_name:
        yield Reference("spec.queueName", "LocalQueue", spec.queue_name, "training waits")
    yield from _priority_class(spec.priority_class_name)


def _of_server(spec: ModelServerSpec) -> Iterator[Reference]:
    if job := spec.model.fine_tune_job_ref:
        yield Reference("spec.model.fineTuneJobRef.name", "FineTuneJob", job.name, "nothing is served")
    yield from _secret("spec.model.secretRef.name", spec.model.secret_ref, "the model cannot be fetched")
    if spec.auth:
        key = spec.auth.api_key_secret_ref
        yield Reference("spec.auth.apiKeySecretRef.name", "Secret", key.name, "the pods do not start")
    yield from _priority_class(spec.priority_class_name)


def _secret(path: str, secret: SecretRef | None, missing: str) -> Iterator[Reference]:
    if secret:
        yield Reference(path, "Secret", secret.name, missing)


def _priority_class(name: str | None) -> Iterator[Reference]:
    if name:
        yield Reference("spec.priorityClassName", "PriorityClass", name, "no pod can be created")
