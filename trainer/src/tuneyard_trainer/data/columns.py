"""A tokenized row: integers by column name. Workers import this module; it needs no other library.

A chat has INPUT_IDS, its tokens, and LABELS, as long: the token where it is trained, else IGNORED. Plain text has the
same; every token of it is trained. A pair of answers has the same for the prompt with the chosen answer; and, with
REJECTED before both names, for the prompt with the rejected one.

So whoever reads INPUT_IDS and LABELS alone sees the answers that are wanted. The rows of a job are all pairs, or none
of them is.
"""

from array import array
from collections.abc import Mapping, Sequence
from typing import Final, TypeVar

INPUT_IDS: Final = "input_ids"
LABELS: Final = "labels"
REJECTED: Final = "rejected_"

IGNORED: Final = -100
"""The label of a token that is not trained (the ignore_index of PyTorch's cross_entropy)."""

_IGNORED_BYTES: Final = array("i", [IGNORED]).tobytes()

TokenizedRow = dict[str, list[int]]
"""As training reads it."""

TokenArrays = dict[str, "array[int]"]
"""As prepare makes it: arrays are handed from one process to another, and written, without a look at each number."""

Values = TypeVar("Values", "array[int]", list[int])


def as_array(ids: Sequence[int]) -> "array[int]":
    """The tokens as int32, which is what the shards hold."""
    return ids if isinstance(ids, array) else array("i", ids)


def length(row: Mapping[str, Sequence[int]]) -> int:
    """The tokens of the longest column."""
    return max(map(len, row.values()))


def truncated(row: Mapping[str, Values], max_length: int) -> dict[str, Values]:
    return {name: values[:max_length] for name, values in row.items()}


def pieces(row: Mapping[str, Values], max_length: int) -> list[dict[str, Values]]:
    """The row cut into rows of `max_length` tokens; the last one may be shorter."""
    return [
        {name: values[begin : begin + max_length] for name, values in row.items()}
        for begin in range(0, length(row), max_length)
    ]


def supervised(row: Mapping[str, Sequence[int]]) -> int:
    """How many tokens are trained; of a pair, those of the chosen answer. The first token is never predicted."""
    return _trained(row[LABELS])


def is_trainable(row: Mapping[str, Sequence[int]]) -> bool:
    """Whether a token is trained; of a pair, in both answers."""
    return all(_trained(values) for name, values in row.items() if name.endswith(LABELS))


def _trained(labels: Sequence[int]) -> int:
    return len(labels) - _ignored(labels) - (len(labels) > 0 and labels[0] != IGNORED)


def _ignored(labels: Sequence[int]) -> int:
    """Of an array, its bytes are counted, which is faster: the others are not negative, so they have no such bytes."""
    return labels.tobytes().count(_IGNORED_BYTES) if isinstance(labels, array) else labels.count(IGNORED)
