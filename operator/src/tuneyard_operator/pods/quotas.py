"""ResourceQuotas: what waits for one is reconciled when it changes, because its controller would wait for minutes."""

from typing import Final

from tuneyard_operator.machinery.cache import Reader
from tuneyard_operator.machinery.controller import Index
from tuneyard_operator.machinery.objects import Json, Key, hash8, namespace
from tuneyard_operator.machinery.resources import RESOURCE_QUOTA, Resource

MENTIONED: Final = " quota: "  # in every message of the API server about a quota: exceeded quota: q, failed quota: q


def _place(obj: Json) -> Key:
    """Under which the quotas of a namespace, and the objects that wait for one of them, are found."""
    return Key(RESOURCE_QUOTA.kind, namespace(obj), "")


def trim(quota: Json) -> Json:
    """A quota with its amounts."""
    metadata = {key: quota["metadata"][key] for key in ("name", "namespace", "uid", "resourceVersion")}
    return {"kind": RESOURCE_QUOTA.kind, "metadata": metadata, "status": quota.get("status", {})}


def fingerprint(obj: Json, cluster: Reader) -> str:
    """A hash of what the quotas of an object's namespace allow and what is used of it; empty where there are none."""
    quotas = cluster.children(RESOURCE_QUOTA.kind, _place(obj))
    return hash8([quota.get("status", {}) for quota in quotas]) if quotas else ""


def waits_for_quota(obj: Json) -> list[Key]:
    """Where an object whose conditions name a quota is found."""
    conditions = obj.get("status", {}).get("conditions", [])
    return [_place(obj)] if any(MENTIONED in each.get("message", "") for each in conditions) else []


def waiting_objects(kind: Resource, quota: Json, cluster: Reader) -> list[Key]:
    """The objects of a kind that wait for a quota of the namespace."""
    return cluster.child_keys(kind.kind, _place(quota))


QUOTAS: Final = Index(RESOURCE_QUOTA, lambda quota: [_place(quota)])
