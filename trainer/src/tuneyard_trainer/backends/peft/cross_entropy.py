"""The loss of logits, with no more than a part of them in float32 at a time.

Where the vocabulary is large the logits are most of the memory of a step. functional.cross_entropy of logits in float32
holds them, their logarithmic probabilities and a gradient in float32; here there are the logits and their gradient
alone, in the precision of the model.
"""

from typing import Any, Final

import torch
from torch.nn import functional

PART: Final = 2**22
"""Logits that are in float32 at once: 16 MiB."""


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The negative log-likelihood of each target, in nats and in float32, of shape (targets,).

    Args:
        logits: shape (targets, vocabulary).
    """
    losses: torch.Tensor = _CrossEntropy.apply(logits, targets)
    return losses


def _rows(logits: torch.Tensor) -> int:
    return max(1, PART // int(logits.shape[-1]))


class _CrossEntropy(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(context: Any, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        context.save_for_backward(logits, targets)
        parts = zip(logits.split(_rows(logits)), targets.split(_rows(logits)), strict=True)
        return torch.cat([functional.cross_entropy(part.float(), goal, reduction="none") for part, goal in parts])

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[misc]
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Of each row (softmax(logits) - one at the target) times the gradient of its loss."""
        logits, targets = context.saved_tensors
        result = torch.empty_like(logits)
        rows = _rows(logits)
        for part, goal, scale, out in zip(
            logits.split(rows), targets.split(rows), gradient.split(rows), result.split(rows), strict=True
        ):
            found = functional.softmax(part, dim=-1, dtype=torch.float32).mul_(scale[:, None])
            out.copy_(found.scatter_add_(1, goal[:, None], -scale[:, None]))
        return result, None
