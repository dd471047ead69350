"""What a machine computes in, where weights are in bfloat16."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

# The names by which the code of models and quantizers calls products of matrices.
PRODUCTS: Final = frozenset(
    [
        *(torch.nn.functional.linear, torch.nn.functional.scaled_dot_product_attention),
        *(torch.matmul, torch.mm, torch.bmm, torch.addmm, torch.baddbmm),
        *(torch.Tensor.matmul, torch.Tensor.__matmul__, torch.Tensor.mm, torch.Tensor.bmm),
    ]
)


def computes_in_bfloat16() -> bool:
    """Whether this machine has a GPU, or a CPU for which oneDNN has kernels for bfloat16."""
    return torch.cuda.is_available() or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def computes_in_float16() -> bool:
    """The same for float16."""
    return torch.cuda.is_available() or bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())


def fast_products() -> AbstractContextManager[Any]:
    """A context in which products of matrices in 16 bits are fast on this machine: see Float32Products."""
    native = {torch.bfloat16: computes_in_bfloat16(), torch.float16: computes_in_float16()}
    slow = frozenset(dtype for dtype, is_fast in native.items() if not is_fast)
    return Float32Products(slow) if slow else nullcontext()


class Float32Products(TorchFunctionMode):  # type: ignore[misc]
    """Computes products of matrices of some types in float32, and rounds each to its type.

    For CPUs without instructions for these types, as those with AVX2 alone: there a model's forward pass takes 3 to 5
    times as long in bfloat16 as in float32 (PyTorch 2.13). The weights stay as they are; a product copies its factors.
    """

    def __init__(self, slow: frozenset[torch.dtype]) -> None:
        super().__init__()
        self._slow = slow

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in PRODUCTS or not args or not self._is_slow(args[0]):
            return func(*args, **kwargs)
        in_float32 = tree_map(lambda value: value.float() if self._is_slow(value) else value, (args, kwargs))
        return func(*in_float32[0], **in_float32[1]).to(args[0].dtype)

    def _is_slow(self, value: Any) -> bool:
        return isinstance(value, torch.Tensor) and value.dtype in self._slow
