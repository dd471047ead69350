"""What all pods of the operator have in common: Pod Security `restricted`, credentials as files, resources."""

from collections.abc import Mapping
from typing import Final

from tuneyard_api import names
from tuneyard_api.base import ContainerResources, Resources, SecretRef
from tuneyard_api.names import CREDENTIALS_DIR
from tuneyard_api.pod import PodOptions
from tuneyard_operator.machinery.objects import Json
from tuneyard_operator.settings import Settings

USER: Final = 65532

POD_SECURITY: Final[Json] = {
    "runAsNonRoot": True,
    "runAsUser": USER,
    "runAsGroup": USER,
    "fsGroup": USER,
    "fsGroupChangePolicy": "OnRootMismatch",
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONTAINER_SECURITY: Final[Json] = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
# The fields of resources that choose a node.
PLACEMENT: Final = ("node_selector", "tolerations", "affinity", "topology_spread_constraints", "runtime_class_name")
NO_TOKEN: Final[Json] = {"automountServiceAccountToken": False, "enableServiceLinks": False}


def scratch(volume: str, path: str, *, memory: bool = False) -> tuple[Json, Json]:
    """(volume, mount) of an empty directory."""
    medium: Json = {"medium": "Memory"} if memory else {}
    return {"name": volume, "emptyDir": medium}, {"name": volume, "mountPath": path}


def credentials(secret: SecretRef | None) -> list[tuple[Json, Json]]:
    """(volume, mount) of the Secret of the store."""
    return secret_files("s3", CREDENTIALS_DIR, secret)


def secret_files(volume: str, path: str, secret: SecretRef | None) -> list[tuple[Json, Json]]:
    """(volume, mount) of a Secret. It is optional: the pod starts without it, and says which Secret is missing."""
    if secret is None:
        return []
    source = {"secretName": secret.name, "optional": True, "defaultMode": 0o440}
    return [({"name": volume, "secret": source}, {"name": volume, "mountPath": path, "readOnly": True})]


def image_settings(settings: Settings) -> Json:
    secrets = [{"name": secret} for secret in settings.image_pull_secrets]
    return {"imagePullSecrets": secrets} if secrets else {}


def app_labels(kind: str, instance: str, component: str = "") -> dict[str, str]:
    """The labels that Kubernetes recommends. The name is the kind's: the operator itself is `tuneyard`."""
    labels = {names.LABEL_APP_NAME: kind, names.LABEL_APP_INSTANCE: instance, names.LABEL_APP_PART_OF: "tuneyard"}
    return names.MANAGED_BY | labels | ({names.LABEL_APP_COMPONENT: component} if component else {})


def metadata(options: PodOptions, labels: Mapping[str, str]) -> Json:
    """The metadata of a pod template: the user's, and the labels that the operator selects by."""
    annotations: Json = {"annotations": options.annotations} if options.annotations else {}
    return {"labels": {**options.labels, **labels}, **annotations}


def identity(options: PodOptions) -> Json:
    """The fields of a pod's spec that say who it is."""
    return {"serviceAccountName": options.service_account_name} if options.service_account_name else {}


def placement(resources: Resources, priority_class: str | None, spread: Mapping[str, str]) -> Json:
    """The fields of a pod's spec that say where it may run.

    Args:
        spread: the labels of the pods among which topology spread constraints count.
    """
    tolerations = [toleration.wire() for toleration in resources.tolerations or []]
    constraints = [
        constraint.wire() | {"labelSelector": {"matchLabels": dict(spread)}, "matchLabelKeys": [names.LABEL_REVISION]}
        for constraint in resources.topology_spread_constraints or []
    ]
    fields = {
        "nodeSelector": resources.node_selector,
        "tolerations": tolerations,
        "affinity": resources.affinity,
        "topologySpreadConstraints": constraints,
        "runtimeClassName": resources.runtime_class_name,
        "priorityClassName": priority_class,
    }
    return {key: value for key, value in fields.items() if value}


# What a container that works with a model requests, where nothing is given: enough for the scheduler to spread pods,
# and for a namespace whose quota wants requests. What a model really needs depends on its size. No ephemeral-storage: a
# queue of Kueue that has no quota for a resource never admits a Job that requests it.
WORK_DEFAULTS: Final = ContainerResources(requests={"cpu": "500m", "memory": "1Gi"})


def container_resources(resources: ContainerResources, defaults: ContainerResources = WORK_DEFAULTS) -> Json:
    """Requests and limits; GPUs are limits, as Kubernetes wants it of extended resources.

    A default applies where neither a request nor a limit is given, so that it never contradicts the other.
    """
    requests, limits = resources.requests or {}, resources.limits or {}
    given = {*requests, *limits}
    gpus: dict[str, str | int] = {}
    if isinstance(resources, Resources) and resources.gpus:
        gpus = {resources.gpu_resource_name: resources.gpus}
    fields = {
        "requests": _missing(defaults.requests, given) | requests,
        "limits": _missing(defaults.limits, given) | limits | gpus,
    }
    return {
        field: {resource: str(quantity) for resource, quantity in quantities.items()}
        for field, quantities in fields.items()
        if quantities
    }


def _missing(defaults: dict[str, str | int] | None, given: set[str]) -> dict[str, str | int]:
    return {resource: quantity for resource, quantity in (defaults or {}).items() if resource not in given}


def without_gpu(resources: Resources) -> Resources:
    """The same cpu and memory, without GPUs and what chooses a node that has some."""
    if not resources.gpus:
        return resources
    return resources.model_copy(update={"gpus": 0, **dict.fromkeys(PLACEMENT)})
