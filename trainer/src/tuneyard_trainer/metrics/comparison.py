"""How far the logits of models are from those of a reference model, on the same rows; runs in workers, with NumPy.

The reference writes its logits to disk, so that it and another model are not in memory together, and so that a worker
of another environment can read them.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]
"""[tokens, vocabulary]"""


class Comparison:
    """Of one model with the reference. Or the reference itself, whose logits are written."""

    def __init__(self, directory: Path, *, is_reference: bool) -> None:
        self._directory, self._is_reference = directory, is_reference
        self._kl, self._changed, self._tokens = 0.0, 0, 0

    def add(self, row: int, logits: Logits) -> None:
        """The logits of one row's answer tokens, in their order."""
        path = self._directory / f"{row}.npy"
        if self._is_reference:
            self._directory.mkdir(parents=True, exist_ok=True)
            np.save(path, logits)
            return
        expected: Logits = np.load(path)
        width = min(expected.shape[1], logits.shape[1])  # some models have logits beyond their vocabulary
        own, other = log_softmax(expected[:, :width]), log_softmax(logits[:, :width])
        self._kl += float((np.exp(own) * (own - other)).sum(dtype=np.float64))
        self._changed += int((own.argmax(axis=1) != other.argmax(axis=1)).sum())
        self._tokens += len(own)

    @property
    def kl(self) -> float | None:
        """Mean KL divergence of the model's next-token distribution from the reference's, in nats per token."""
        return self._kl / self._tokens if self._tokens else None

    @property
    def changed_top1(self) -> float | None:
        """Share of the tokens whose most likely token is another one."""
        return self._changed / self._tokens if self._tokens else None


def log_softmax(logits: Logits) -> Logits:
    """[tokens, vocabulary], in float32 with the sum in float64."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    sums = np.exp(shifted).sum(axis=1, keepdims=True, dtype=np.float64)
    return np.asarray(shifted - np.log(sums), dtype=np.float32)
