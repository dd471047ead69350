"""A tokenized row: lists of integers by column name. Workers import this module; it needs no other library.

A chat has INPUT_IDS, its tokens, and LABELS, as long: the token where it is trained, else IGNORED. Plain text has the
same; every token of it is trained. A pair of answers has the same for the prompt with the chosen answer; and, with
REJECTED before both names, for the prompt with the rejected one.

So whoever reads INPUT_IDS and LABELS alone sees the answers that are wanted. The rows of a job are all pairs, or none
of them is.
"""

from typing import Final

INPUT_IDS: Final = "input_ids"
LABELS: Final = "labels"
REJECTED: Final = "rejected_"

IGNORED: Final = -100
"""The label of a token that is not trained (the ignore_index of PyTorch's cross_entropy)."""

TokenizedRow = dict[str, list[int]]


def length(row: TokenizedRow) -> int:
    """The tokens of the longest column."""
    return max(map(len, row.values()))


def truncated(row: TokenizedRow, max_length: int) -> TokenizedRow:
    return {name: values[:max_length] for name, values in row.items()}


def pieces(row: TokenizedRow, max_length: int) -> list[TokenizedRow]:
    """The row cut into rows of `max_length` tokens; the last one may be shorter."""
    return [
        {name: values[begin : begin + max_length] for name, values in row.items()}
        for begin in range(0, length(row), max_length)
    ]


def supervised(row: TokenizedRow) -> int:
    """How many tokens are trained; of a pair, those of the chosen answer. The first token is never predicted."""
    return _trained(row[LABELS])


def is_trainable(row: TokenizedRow) -> bool:
    """Whether a token is trained; of a pair, in both answers."""
    return all(_trained(values) for name, values in row.items() if name.endswith(LABELS))


def _trained(labels: list[int]) -> int:
    return len(labels) - labels.count(IGNORED) - (labels[:1] not in ([], [IGNORED]))
