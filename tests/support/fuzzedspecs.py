"""Specs that the schema of a kind's CRD lets through, however odd: drawn from its OpenAPI schema.

The CEL rules are not evaluated, so some specs are drawn that the API server refuses: the operator has to bear more than
it will ever get. A text has the form that CEL asks for.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from hypothesis import strategies as st

from support.verdicts import SPECS
from tuneyard_api.crd import model_schema
from tuneyard_api.kind import Kind

Json = dict[str, Any]
Schema = Json

INT64: Final = 2**63 - 1
ODD_QUANTITIES: Final = ["abc", "", "-1", "1e999999999", "1e400", "9" * 400, "1.5.5", "٣", "0x10", "1 Gi", "NaN", "m"]
QUANTITIES: Final = st.sampled_from(["1", "500m", "16Gi", "2e3", "0", 0, 4, -2, INT64, *ODD_QUANTITIES])
ODD_TEXTS: Final = [
    "",
    " ",
    ".",
    "..",
    "/",
    "a/b",
    "A",
    "7b",
    "x" * 300,
    "{{ bad",
    "a\x00b",
    "\U0001f600",
    "null",
    "\n",
    "-x",
]
TEXTS: Final = st.one_of(st.sampled_from(["a", "b-2", "name.of.it", "nvidia.com/gpu", *ODD_TEXTS]), st.text(max_size=8))
KEYS: Final = st.one_of(
    st.sampled_from(
        ["cpu", "memory", "ephemeral-storage", "nvidia.com/gpu", "hugepages-2Mi", "max-num-seqs", "--x", "", "ram"]
    ),
    st.text(max_size=6),
)
ANYTHING: Final = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 5), TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(KEYS, inner, max_size=2)),
    max_leaves=4,
)
# How a rule says of which form a text is: see tuneyard_api.rules.matches.
FORM: Final = re.compile(r"self\.matches\('\^\((.*)\)\$'\)", re.DOTALL)


def specs(kind: Kind) -> st.SearchStrategy[Json]:
    """A minimal spec of the kind, in which any of the fields are replaced by what the schema allows."""
    schema = model_schema(kind.spec)
    fields = st.fixed_dictionaries({}, optional={name: _values(part) for name, part in schema["properties"].items()})
    return fields.map(lambda drawn: SPECS[kind.kind] | drawn)


def _values(schema: Schema) -> st.SearchStrategy[Any]:
    if schema.get("x-kubernetes-int-or-string"):
        return QUANTITIES
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        return st.dictionaries(KEYS, ANYTHING, max_size=3)
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    draw: Mapping[str, Callable[[Schema], st.SearchStrategy[Any]]] = {
        "object": _objects,
        "array": _arrays,
        "string": _strings,
        "integer": _integers,
        "number": _numbers,
        "boolean": lambda _: st.booleans(),
    }
    return draw[schema["type"]](schema)


def _objects(schema: Schema) -> st.SearchStrategy[Any]:
    if "additionalProperties" in schema:
        return st.dictionaries(KEYS, _values(schema["additionalProperties"]), max_size=3)
    required = set(schema.get("required", []))
    drawn = {name: _values(part) for name, part in schema.get("properties", {}).items()}
    return st.fixed_dictionaries(
        {name: part for name, part in drawn.items() if name in required},
        optional={name: part for name, part in drawn.items() if name not in required},
    )


def _arrays(schema: Schema) -> st.SearchStrategy[Any]:
    least = schema.get("minItems", 0)
    return st.lists(_values(schema["items"]), min_size=least, max_size=least + 2)


def _strings(schema: Schema) -> st.SearchStrategy[Any]:
    least, most = schema.get("minLength", 0), schema.get("maxLength", 1000)
    found = [FORM.fullmatch(rule["rule"]) for rule in schema.get("x-kubernetes-validations", [])]
    pattern = next((match[1] for match in found if match), schema.get("pattern"))
    if pattern:
        formed = st.from_regex(re.compile(pattern.removeprefix("^").removesuffix("$")), fullmatch=True)
        return formed.filter(lambda text: len(text) <= most)
    return TEXTS.filter(lambda text: least <= len(text) <= most)


def _integers(schema: Schema) -> st.SearchStrategy[Any]:
    low, high = int(schema.get("minimum", -INT64)), int(schema.get("maximum", INT64))
    return st.one_of(st.sampled_from([low, high]), st.integers(low, high))


def _numbers(schema: Schema) -> st.SearchStrategy[Any]:
    return st.floats(
        schema.get("minimum", -1e300),
        schema.get("maximum", 1e300),
        exclude_min=schema.get("exclusiveMinimum", False),
        exclude_max=schema.get("exclusiveMaximum", False),
        allow_nan=False,
    )
