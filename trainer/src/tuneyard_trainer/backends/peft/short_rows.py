"""Causal attention of short rows in bfloat16 on CPUs, with a backward pass in float32.

PyTorch's FlashAttention for CPUs is slow backward in bfloat16 where rows are short: of 91 tokens it took 2.5 ms of CPU,
and 1.3 ms in float32 with the forward pass once more (9 heads of 64, a CPU with AMX). Of 192 tokens both took the same.
"""

from typing import Any, Final

import torch
from torch.nn import functional

LONGEST: Final = 160
"""Tokens of a row that is short."""


def is_short(query: torch.Tensor) -> bool:
    """Whether `causal_attention` is the faster one for rows of this shape and kind."""
    on_cpu_in_half = query.device.type == "cpu" and query.dtype == torch.bfloat16
    return on_cpu_in_half and bool(query.requires_grad) and int(query.shape[-2]) <= LONGEST


def causal_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None) -> torch.Tensor:
    """What functional.scaled_dot_product_attention computes; key and value may have fewer heads."""
    output: torch.Tensor = _ShortRow.apply(query, key, value, scale)
    return output


def _attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None) -> torch.Tensor:
    grouped = query.shape[1] != key.shape[1]
    return functional.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=grouped)


class _ShortRow(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(
        context: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None
    ) -> torch.Tensor:
        context.save_for_backward(query, key, value)
        context.scale = scale
        return _attention(query, key, value, scale)

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[misc]
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value = (tensor.float().requires_grad_() for tensor in context.saved_tensors)
        with torch.enable_grad(), torch.autocast("cpu", enabled=False):
            output = _attention(query, key, value, context.scale)
        gradients = torch.autograd.grad(output, (query, key, value), gradient.float())
        return *(each.to(gradient.dtype) for each in gradients), None
