"""Questions about Kubernetes objects, which are plain dicts here."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any, NamedTuple

Json = dict[str, Any]


class Key(NamedTuple):
    """Identifies one object of the cluster."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


def key_of(obj: Json) -> Key:
    return Key(obj["kind"], namespace(obj), name(obj))


def uid(obj: Json) -> str:
    return str(obj["metadata"]["uid"])


def name(obj: Json) -> str:
    return str(obj["metadata"]["name"])


def namespace(obj: Json) -> str:
    return str(obj["metadata"]["namespace"])


def version(obj: Json) -> int:
    """The resourceVersion as a number: a newer object or list has a larger one, across kinds (KEP-5504)."""
    return int(obj["metadata"]["resourceVersion"])


def generation(obj: Json) -> int:
    return int(obj["metadata"].get("generation", 0))


def label(obj: Json, key: str) -> str:
    return str(obj["metadata"].get("labels", {}).get(key, ""))


def is_deleting(obj: Json) -> bool:
    """Whether its deletion was requested."""
    return "deletionTimestamp" in obj["metadata"]


def controller_of(obj: Json) -> Json:
    """The owner reference of its controller, of which there is at most one; an empty dict where it has none."""
    return next((owner for owner in obj["metadata"].get("ownerReferences", []) if owner.get("controller")), {})


def owned_by(obj: Json, owner_uid: str) -> bool:
    return bool(controller_of(obj).get("uid") == owner_uid)


def left_by_namesake(obj: Json, owner: Json) -> bool:
    """Whether its owner was an earlier object with the owner's name, which was deleted.

    The garbage collector misses such an object where its watch broke between the deletion of the one owner and the
    creation of the other: its informer then reports a change of one object (processDeltas in client-go's
    tools/cache/controller.go).
    """
    reference = controller_of(obj)
    same_name = (reference.get("kind"), reference.get("name")) == (owner["kind"], name(owner))
    return same_name and not owned_by(obj, uid(owner))


def owner_reference(owner: Json) -> Json:
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": name(owner),
        "uid": uid(owner),
        "controller": True,
        "blockOwnerDeletion": False,
    }


def condition(obj: Json, kind: str) -> Json:
    """The condition of that type, or an empty dict."""
    return condition_in(obj.get("status", {}).get("conditions", []), kind)


def condition_in(conditions: Iterable[Json], kind: str) -> Json:
    return next((found for found in conditions if found["type"] == kind), {})


def is_condition_true(obj: Json, kind: str) -> bool:
    return bool(condition(obj, kind).get("status") == "True")


def hash8(value: Any) -> str:
    """Eight hexadecimal digits of the SHA-256 of a JSON value in canonical form."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def matches(existing: Json, child: Json) -> bool:
    """Whether an existing object has all that is wanted of a child."""
    return is_subset(existing, {key: value for key, value in child.items() if key not in ("apiVersion", "kind")})


def is_subset(existing: Any, wanted: Any) -> bool:
    """Whether every wanted field has its value. Fields that the API server or others have added do not matter."""
    if isinstance(wanted, dict):
        return isinstance(existing, dict) and all(is_subset(existing.get(key), value) for key, value in wanted.items())
    if isinstance(wanted, list):
        return isinstance(existing, list) and len(existing) == len(wanted) and all(map(is_subset, existing, wanted))
    return bool(existing == wanted)
