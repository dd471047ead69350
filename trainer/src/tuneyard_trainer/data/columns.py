"""A tokenized row: lists of integers by column name. Workers import this module; it needs no other library."""

from typing import Final

INPUT_IDS: Final = "input_ids"
LABELS: Final = "labels"

IGNORED: Final = -100
"""The label of a token that is not trained (the ignore_index of PyTorch's cross_entropy)."""

TokenizedRow = dict[str, list[int]]
"""A chat has INPUT_IDS, its tokens, and LABELS, as long: the token where it is trained, else IGNORED."""


def length(row: TokenizedRow) -> int:
    """The tokens of the longest column."""
    return max(map(len, row.values()))


def truncated(row: TokenizedRow, max_length: int) -> TokenizedRow:
    return {name: values[:max_length] for name, values in row.items()}


def supervised(row: TokenizedRow) -> int:
    """How many tokens are trained. The first token of a row is never predicted."""
    labels = row[LABELS]
    return len(labels) - labels.count(IGNORED) - (labels[:1] not in ([], [IGNORED]))
