"""The steps of a run, and the rows of each step: pure functions of the spec, the rows and the seed.

The order of the rows is computed for the whole run before it starts. A resumed run continues in that order, so that it
sees the same rows as an uninterrupted run.
"""

import math
import random
from collections.abc import Iterator, Sequence
from itertools import chain, islice

from tuneyard_api import reasons
from tuneyard_api.kinds.training import Training
from tuneyard_trainer.runtime.errors import BadInput

DEFAULT_EPOCHS = 3.0


def total_steps(training: Training, rows: int) -> int:
    """Optimizer steps of a run over `rows` training rows. The next epoch fills a last partial batch."""
    if training.max_steps is not None:
        return training.max_steps
    epochs = DEFAULT_EPOCHS if training.epochs is None else training.epochs
    return max(1, math.ceil(epochs * rows / training.effective_batch_size))


def micro_batch_size(training: Training, devices: int = 1) -> int:
    """Rows per forward pass and device; of auto, the default.

    Raises:
        BadInput: effectiveBatchSize is not a multiple of microBatchSize times the number of devices.
    """
    per_device, rest = divmod(training.effective_batch_size, devices)
    micro = training.given_micro_batch_size or max(size for size in (1, 2, 4, 8) if per_device % size == 0)
    if rest or per_device % micro:
        raise BadInput(
            reasons.INVALID_SPEC,
            f"training.effectiveBatchSize {training.effective_batch_size} is not a multiple of "
            f"microBatchSize {micro} x {devices} device(s)",
            f"Set training.effectiveBatchSize to a multiple of {micro * devices}, or another microBatchSize.",
        )
    return micro


def row_order(lengths: Sequence[int], steps: int, batch: int, seed: int, micro_batches: int | None = None) -> list[int]:
    """The rows of the whole run: `batch` of them per step, each epoch in another order.

    The loss is a mean over the step's tokens: the order within a step changes speed and memory, not the gradient.

    Args:
        lengths: of the rows, in tokens.
        micro_batches: of a step, for rows end to end: they get about the same number of tokens each. None: rows of a
            step are sorted by length, longest first, so that padded micro batches need little padding.
    """
    stream = _epochs(len(lengths), seed)
    order: list[int] = []
    for _ in range(steps):
        rows = sorted(islice(stream, batch), key=lambda row: -lengths[row])
        order += rows if micro_batches is None else _dealt(rows, lengths, micro_batches)
    return order


def _dealt(rows: Sequence[int], lengths: Sequence[int], micro_batches: int) -> Iterator[int]:
    """Deals rows, longest first, each to the micro batch that has the fewest tokens and is not full."""
    size = len(rows) // micro_batches
    hands: list[list[int]] = [[] for _ in range(micro_batches)]
    tokens = [0] * micro_batches
    for row in rows:
        chosen = min((hand for hand in range(micro_batches) if len(hands[hand]) < size), key=tokens.__getitem__)
        hands[chosen].append(row)
        tokens[chosen] += lengths[row]
    return chain.from_iterable(hands)


def _epochs(rows: int, seed: int) -> Iterator[int]:
    epoch = 0
    while True:
        yield from epoch_order(rows, seed, epoch)
        epoch += 1


def epoch_order(rows: int, seed: int, epoch: int = 0) -> list[int]:
    """The rows of one epoch, shuffled."""
    shuffled = list(range(rows))
    # A string seed is hashed with SHA-512, so the order is the same on every machine and Python version.
    random.Random(f"{seed}/{epoch}").shuffle(shuffled)  # noqa: S311 - an order, not a secret
    return shuffled
