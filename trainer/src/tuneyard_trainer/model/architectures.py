"""What transformers knows of a model type, from architectures.json, which trainer/generate.py writes.

transformers itself is not asked, because importing it takes longer than everything else that prepare does.
"""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

TABLE: Final = Path(__file__).with_name("architectures.json")

Shape = tuple[str | None, ...]
"""The sizes that a shape is made of, such as (keys, hidden); None: unknown."""


class SizeField(NamedTuple):
    """Where config.json has a size, and what counts where it has none."""

    name: str
    default: int | None


class Structure(NamedTuple):
    """The parameters that every model of a type has, whatever its configuration."""

    base: str
    """The first part of the names in the causal language model, which files of the bare model leave out."""
    fields: Mapping[str, SizeField]
    tied: bool
    """Whether the head is the embedding, where config.json does not say it."""
    embedding: str
    head: str
    positions: tuple[str, int] | None
    """The learned position embedding, and how many of its rows are no positions."""
    outer: Mapping[str, Shape]
    """The parameters outside the layers."""
    layers: str
    """What comes before the number of a layer."""
    layer: Mapping[str, Shape]
    """The parameters of each layer."""

    def sizes(self, config: Mapping[str, Any]) -> dict[str, int]:
        """The numbers that stand for the sizes of a shape, by trainer/generate.py's names; unknown ones are missing."""
        found = {size: config.get(field.name, field.default) for size, field in self.fields.items()}
        known = {size: value for size, value in found.items() if isinstance(value, int) and value > 0}
        named = {
            name: known[size]
            for name, size in (("vocab", "vocab_size"), ("hidden", "hidden_size"), ("inner", "intermediate_size"))
            if size in known
        }
        named |= {
            f"{times}*{name}": times * named[name] for times, name in ((2, "inner"), (3, "hidden")) if name in named
        }
        return named | _heads(known, config)


def _heads(known: Mapping[str, int], config: Mapping[str, Any]) -> dict[str, int]:
    """The sizes of the attention: with head_dim, or with the hidden size divided evenly among the heads."""
    hidden, heads = known.get("hidden_size"), known.get("num_attention_heads")
    if not hidden or not heads:
        return {}
    keys, even = known.get("num_key_value_heads", heads), hidden // heads
    given = known.get("head_dim", config.get("head_dim"))
    dim = given if isinstance(given, int) and given > 0 else even
    return {
        "dim": dim,
        "queries": heads * dim,
        "keys": keys * dim,
        "queries+2*keys": (heads + 2 * keys) * dim,
        "even dim": even,
        "even keys": keys * even,
        "hidden+2*even keys": hidden + 2 * keys * even,
    }


@cache
def _table() -> dict[str, Any]:
    table: dict[str, Any] = json.loads(TABLE.read_text())
    return table


def transformers_version() -> str:
    """The version that the table was made with."""
    return str(_table()["transformers"])


def known_types() -> list[str]:
    """Every model type that transformers knows."""
    return list(_table()["kinds"])


def kind_of(model_type: str) -> str | None:
    """decoder, encoder, seq2seq, multimodal or other; None for an unknown model type."""
    kind: str | None = _table()["kinds"].get(model_type)
    return kind


def structure_of(model_type: str) -> Structure | None:
    """The parameters of every model of this type; None where they are not known."""
    given = _table()["structures"].get(model_type)
    if given is None:
        return None
    positions = given["positions"]
    return Structure(
        **given
        | {
            "fields": {size: SizeField(*field) for size, field in given["fields"].items()},
            "positions": (positions["name"], positions["extra"]) if positions else None,
        }
    )
