"""What is wrong with an object, all of it at once: each problem with the field's path and what to write instead.

The webhook, the conditions of the operator and `tuneyard validate` say it with the same words.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from typing import Any, Final, NamedTuple, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from tuneyard_api.base import Model
from tuneyard_api.crd import model_schema
from tuneyard_api.kind import Kind
from tuneyard_api.rules import RULE

Json = dict[str, Any]
Path = Sequence[str | int]
Spec = TypeVar("Spec", bound=Model)

SHOWN: Final = 60  # characters of a wrong value
CONSEQUENCE: Final = "default_factory_not_called"  # a default that depends on a field with a mistake


class Problem(NamedTuple):
    """One mistake of a spec."""

    path: str
    """As kubectl explain has it: spec.dataset.train[0].uri"""
    message: str
    """What is wrong, and what to write instead."""

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


def problems(kind: Kind, document: Mapping[str, Any]) -> list[Problem]:
    """All mistakes of an object; an empty list where the operator can work with it."""
    return read_spec(kind, kind.spec, document)[1]


def read_spec(kind: Kind, model: type[Spec], document: Mapping[str, Any]) -> tuple[Spec | None, list[Problem]]:
    """The spec of an object as `model`, which is the kind's, and all mistakes of the object.

    The spec is None where it cannot be read.
    """
    found = _object_problems(kind, document)
    try:
        return model.model_validate(document.get("spec"), by_alias=True, by_name=False), found
    except ValidationError as error:
        errors = [each for each in error.errors(include_url=False) if each["type"] != CONSEQUENCE]
        return None, [*found, *(_problem(kind, each) for each in errors)]


def explain(found: Iterable[Problem]) -> str:
    """The problems in one line, for a condition's message."""
    return "; ".join(map(str, found))


def _object_problems(kind: Kind, document: Mapping[str, Any]) -> list[Problem]:
    """What name and spec must be like together; a document without a name or a spec has other problems."""
    if not (document.get("metadata") or {}).get("name") or not isinstance(document.get("spec"), dict):
        return []
    return [Problem(rule.field, rule.message) for rule in kind.rules if not rule.accepts(document)]


def _problem(kind: Kind, error: ErrorDetails) -> Problem:
    path = error["loc"]
    return Problem(_written(path), _message(error, _schema(kind.spec), path))


@cache
def _schema(model: type[Model]) -> Json:
    """The schema of a model, which takes tens of milliseconds to make."""
    return model_schema(model)


def _message(error: ErrorDetails, schema: Json, path: Path) -> str:
    if error["type"] == RULE:
        given = error["input"]
        return error["msg"] + (f", got {_shown(given)}" if isinstance(given, str | int | float) else "")
    if error["type"] == "extra_forbidden":
        return f"there is no such field. {_known_fields(_node(schema, path[:-1]), str(path[-1]))}"
    node = _node(schema, path)
    if error["type"] == "missing":
        described = str(node.get("description", "")).rstrip(".")
        return f"is required: write {_wanted(node)}" + (f" ({described})" if described else "")
    return f"{_shown(error['input'])} is not valid: write {_wanted(node) or error['msg']}{_near(node, error['input'])}"


def _known_fields(node: Json, given: str) -> str:
    known = list(node.get("properties", {}))
    lowered = {name.lower(): name for name in known}
    near = get_close_matches(given.lower().replace("_", ""), lowered, n=1)
    return f"Did you mean {lowered[near[0]]}?" if near else f"The fields here are {', '.join(known)}."


def _near(node: Json, given: Any) -> str:
    near = get_close_matches(str(given).lower(), [str(name) for name in node.get("enum", [])], n=1)
    return f". Did you mean {near[0]}?" if near and len(node["enum"]) > 1 else ""


def _wanted(node: Json) -> str:
    """What a field takes, in words; an empty string where its schema says nothing."""
    if "enum" in node:
        return " or ".join(map(str, node["enum"]))
    if node.get("x-kubernetes-int-or-string"):
        return "a quantity such as 2, 500m or 16Gi"
    describe = TYPES.get(str(node.get("type")))
    return describe(node) if describe else ""


def _object(node: Json) -> str:
    if "properties" in node:
        return f"an object with the fields {', '.join(node['properties'])}"
    return f"a map of {_wanted(node.get('additionalProperties', {})) or 'values'}"


def _range(node: Json) -> str:
    low, high = node.get("minimum"), node.get("maximum")
    above, below = node.get("exclusiveMinimum"), node.get("exclusiveMaximum")
    if low is not None and high is not None and not above and not below:
        return f" from {low} to {high}"
    lower = f" {'above' if above else 'of at least'} {low}" if low is not None else ""
    upper = f" {'below' if below else 'of at most'} {high}" if high is not None else ""
    return " and".join(filter(None, (lower, upper)))


def _size(node: Json, bound: str, unit: str) -> str:
    low, high = node.get(f"min{bound}"), node.get(f"max{bound}")
    if low is not None and high is not None:
        return f" of {low} to {high} {unit}"
    if low is not None:
        return f" of at least {low} {unit}"
    return f" of at most {high} {unit}" if high is not None else ""


# How a value of each type of a schema is described.
TYPES: Final[Mapping[str, Callable[[Json], str]]] = {
    "integer": lambda node: f"a whole number{_range(node)}",
    "number": lambda node: f"a number{_range(node)}",
    "string": lambda node: f"text{_size(node, 'Length', 'characters')}",
    "boolean": lambda _: "true or false",
    "array": lambda node: f"a list{_size(node, 'Items', 'items')}",
    "object": _object,
}


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"


def _written(path: Path) -> str:
    """A key that is no plain word stands in brackets, as an index does: spec.resources.limits[nvidia.com/gpu]."""
    parts = [f"[{part}]" if isinstance(part, int) or not part.isidentifier() else f".{part}" for part in path]
    return f"spec{''.join(parts)}"


def _node(schema: Json, path: Path) -> Json:
    """The schema of the field at a path; empty where there is none."""
    node = schema
    for part in path:
        node = node.get("items", {}) if isinstance(part, int) else _child(node, part)
    return node


def _child(node: Json, name: str) -> Json:
    found: Json = node.get("properties", {}).get(name) or node.get("additionalProperties") or {}
    return found
