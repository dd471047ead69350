"""How many rows Axolotl packs into one sequence, so that a step trains as many rows as the spec says.

Axolotl's sample_packing fills sequences of sequence_len tokens, and its batch size counts sequences. Ours counts rows.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from tuneyard_api.kinds.training import Training


class Packing(NamedTuple):
    """The size of a step."""

    sequence_len: int
    """Tokens in a sequence at most."""
    sequences: int
    """Per optimizer step and device."""


def plan(training: Training, lengths: Sequence[int], devices: int) -> Packing:
    """Sequences that hold effectiveBatchSize rows a step, on average.

    A micro batch is one sequence: of microBatchSize rows on average, or where it is not set of all rows of a step, up
    to maxLength tokens. The longest row must fit, as Axolotl drops those that do not.

    Args:
        lengths: of the training rows, in tokens.
        devices: processes of all pods.
    """
    rows_per_device = training.effective_batch_size / devices
    mean = sum(lengths) / len(lengths)
    micro = min(training.given_micro_batch_size or rows_per_device, rows_per_device)
    longest = max(lengths)
    sequence_len = max(longest, min(math.ceil(micro * mean), training.max_length))
    rows_per_sequence = len(lengths) / len(bins(lengths, sequence_len))
    return Packing(sequence_len, max(1, round(rows_per_device / rows_per_sequence)))


def bins(lengths: Sequence[int], capacity: int) -> list[int]:
    """The tokens of each sequence: rows in their order, a new sequence where one does not fit (Axolotl's own way)."""
    filled = [0]
    for length in lengths:
        if filled[-1] + length > capacity:
            filled.append(0)
        filled[-1] += length
    return filled
