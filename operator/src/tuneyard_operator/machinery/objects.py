"""Small questions about Kubernetes objects, which are plain dicts here."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from tuneyard_api.names import API_VERSION

Json = dict[str, Any]


class Key(NamedTuple):
    """Names one object."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


def key_of(thing: Json) -> Key:
    return Key(thing["kind"], namespace(thing), name(thing))


def uid(thing: Json) -> str:
    return str(thing["metadata"]["uid"])


def name(thing: Json) -> str:
    return str(thing["metadata"]["name"])


def namespace(thing: Json) -> str:
    return str(thing["metadata"]["namespace"])


def version(thing: Json) -> int:
    """Newer ones are larger, since all kinds and their lists are numbered by the same clock (KEP-5504)."""
    return int(thing["metadata"]["resourceVersion"])


def generation(thing: Json) -> int:
    return int(thing["metadata"].get("generation", 0))


def label(thing: Json, key: str) -> str:
    return str(thing["metadata"].get("labels", {}).get(key, ""))


def is_deleting(thing: Json) -> bool:
    """Its deletion was asked for."""
    return "deletionTimestamp" in thing["metadata"]


def controller_of(thing: Json) -> Json:
    """The owner that controls it, of which there is one at most; an empty dict where nobody does."""
    return next((each for each in thing["metadata"].get("ownerReferences", []) if each.get("controller")), {})


def owned_by(thing: Json, owner_uid: str) -> bool:
    return bool(controller_of(thing).get("uid") == owner_uid)


def left_by_namesake(thing: Json, owner: Json) -> bool:
    """Its owner was another object of that name, which is gone.

    The garbage collector misses it where its watch broke between the end of the one and the beginning of the other:
    its informer then tells that of a change of one object (processDeltas in client-go's tools/cache/controller.go).
    """
    known = controller_of(thing)
    same_name = (known.get("kind"), known.get("name")) == (owner["kind"], name(owner))
    return same_name and not owned_by(thing, uid(owner))


def owner_reference(owner: Json) -> Json:
    return {
        "apiVersion": API_VERSION,
        "kind": owner["kind"],
        "name": name(owner),
        "uid": uid(owner),
        "controller": True,
        "blockOwnerDeletion": False,
    }


def condition(thing: Json, kind: str) -> Json:
    """The condition of that type, or an empty dict."""
    return condition_in(thing.get("status", {}).get("conditions", []), kind)


def condition_in(conditions: Iterable[Json], kind: str) -> Json:
    return next((each for each in conditions if each["type"] == kind), {})


def is_condition_true(thing: Json, kind: str) -> bool:
    return bool(condition(thing, kind).get("status") == "True")


def hash8(value: Any) -> str:
    """Eight hexadecimal digits that stand for any JSON value."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def matches(there: Json, child: Json) -> bool:
    """Whether a child is as it is wanted; items of a list come without their type."""
    return is_subset(there, {key: value for key, value in child.items() if key not in ("apiVersion", "kind")})


def is_subset(there: Any, wanted: Any) -> bool:
    """Whether all that is wanted is there; what the API server or others have added does not matter."""
    if isinstance(wanted, dict):
        return isinstance(there, dict) and all(is_subset(there.get(key), value) for key, value in wanted.items())
    if isinstance(wanted, list):
        return isinstance(there, list) and len(there) == len(wanted) and all(map(is_subset, there, wanted))
    return bool(there == wanted)
