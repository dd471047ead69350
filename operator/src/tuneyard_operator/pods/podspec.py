"""What all our pods have in common: Pod Security `restricted`, credentials as files, resources."""

import math
from decimal import Decimal
from typing import Final

from tuneyard_api.base import Resources, SecretRef
from tuneyard_api.names import CREDENTIALS_DIR
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
NO_TOKEN: Final[Json] = {"automountServiceAccountToken": False, "enableServiceLinks": False}


def scratch(volume: str, path: str, *, memory: bool = False) -> tuple[Json, Json]:
    """(volume, mount) of an empty folder."""
    medium: Json = {"medium": "Memory"} if memory else {}
    return {"name": volume, "emptyDir": medium}, {"name": volume, "mountPath": path}


def credentials(secret: SecretRef | None) -> list[tuple[Json, Json]]:
    """The Secret as files. Optional, so that the pod itself can say which Secret is missing."""
    if secret is None:
        return []
    volume = {"name": "s3", "secret": {"secretName": secret.name, "optional": True, "defaultMode": 0o440}}
    return [(volume, {"name": "s3", "mountPath": CREDENTIALS_DIR, "readOnly": True})]


def image_settings(settings: Settings) -> Json:
    secrets = [{"name": secret} for secret in settings.image_pull_secrets]
    return {"imagePullSecrets": secrets} if secrets else {}


def placement(resources: Resources, priority_class: str | None) -> Json:
    """Where the pod may run."""
    tolerations = [toleration.wire() for toleration in resources.tolerations or []]
    chosen = {
        "nodeSelector": resources.node_selector,
        "tolerations": tolerations,
        "runtimeClassName": resources.runtime_class_name,
        "priorityClassName": priority_class,
    }
    return {key: value for key, value in chosen.items() if value}


def container_resources(resources: Resources) -> Json:
    """With the GPUs, which are always limits."""
    gpus = {resources.gpu_resource_name: str(resources.gpus)} if resources.gpus else {}
    chosen = {"requests": resources.requests or {}, "limits": (resources.limits or {}) | gpus}
    return {key: {name: str(value) for name, value in each.items()} for key, each in chosen.items() if each}


def without_gpu(resources: Resources) -> Resources:
    """The same cpu and memory on a node without GPUs; selectors and tolerations are the GPU node's."""
    if not resources.gpus:
        return resources
    nowhere = {"node_selector": None, "tolerations": None, "runtime_class_name": None}
    return resources.model_copy(update={"gpus": 0, **nowhere})


def threads(resources: Resources) -> int | None:
    """CPU threads: the cpu limit, else the request, rounded up; None where neither is given."""
    cpu = (resources.limits or {}).get("cpu") or (resources.requests or {}).get("cpu")
    return math.ceil(cores(cpu)) if cpu is not None else None


SUFFIXES: Final = {"n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "k": Decimal(1000)}


def cores(quantity: str | int) -> Decimal:
    """A cpu quantity as a number: 500m is 0.5."""
    text = str(quantity)
    return Decimal(text[:-1]) * SUFFIXES[text[-1]] if text[-1] in SUFFIXES else Decimal(text)
