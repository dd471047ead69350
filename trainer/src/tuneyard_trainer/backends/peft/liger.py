"""Liger's Triton kernels (arXiv:2410.10989) for norms, rotary positions and gated activations, on GPUs.

Its losses are left out: ours computes the head only where a token is trained, and in chunks where memory is short.
"""

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, Final, NamedTuple

import torch

from tuneyard_api.contracts.requests import STREAMED_WEIGHTS, TrainRequest
from tuneyard_trainer.backends.peft.batches import on_device, padded, row_logits
from tuneyard_trainer.backends.peft.memory import is_out_of_memory
from tuneyard_trainer.backends.peft.model import Trainable, base_of
from tuneyard_trainer.data.columns import TokenizedRow, truncated

KERNELS: Final = {"rope": True, "rms_norm": True, "swiglu": True, "geglu": True}
LOSSES: Final = {"cross_entropy": False, "fused_linear_cross_entropy": False}
SAME: Final = {"fp32": 1e-3, "bf16": 0.15}
"""The relative error up to which rounding alone makes the difference: in bfloat16 it adds up over the layers."""
PROBE_TOKENS: Final = 256
"""Of a row: the logits of longer ones could need more memory than a step."""


class Probe(NamedTuple):
    """What a model computes of some rows."""

    logits: torch.Tensor
    gradient_norm: torch.Tensor

    def error_of(self, other: "Probe") -> float:
        """The larger of the relative errors; the norm of the gradients may be zero."""
        errors = [
            (found.float() - expected.float()).norm() / expected.float().norm().clamp(min=1e-12)
            for expected, found in zip(self, other, strict=True)
        ]
        return float(torch.stack(errors).max())


def accelerate_with_liger(model: Trainable, rows: Sequence[TokenizedRow], request: TrainRequest) -> None:
    """Computes parts of a model on a GPU with Liger's kernels, where these give what its own code gives.

    Args:
        rows: with which both are tried, forward and backward; a kernel is compiled when it is first used.
    """
    if not torch.cuda.is_available() or not request.training.tries_liger:
        return
    if STREAMED_WEIGHTS in request.memory_savers:
        print("Liger's kernels are not used: reading the streamed weights is what takes the time.")
    elif problem := patch(model, rows, request.training.precision):
        print(f"Liger's kernels are not used: {problem}.")
    else:
        print("Liger's kernels compute the model's norms, rotary positions and gated activations.")


def patch(model: Trainable, rows: Sequence[TokenizedRow], precision: str) -> str:
    """Returns why the kernels cannot be used, after which the model is as before; nothing where they are."""
    base = base_of(model)
    try:
        liger: Any = import_module("liger_kernel.transformers.monkey_patch")
    except ImportError as missing:
        return str(missing)
    if base.config.model_type not in liger.MODEL_TYPE_TO_APPLY_LIGER_FN:
        return f"liger-kernel has none for models of the type {base.config.model_type}"
    expected, restore = _probed(model, rows, precision), _restorer(base)
    try:
        # It passes a model type's function those arguments which that one has.
        liger._apply_liger_kernel_to_instance(model=base, **KERNELS, **LOSSES)
        error = expected.error_of(_probed(model, rows, precision))
    except Exception as problem:  # of Triton, of its C compiler, or of a model that Liger does not know so
        restore()
        if is_out_of_memory(problem):
            raise
        return next(iter(str(problem).splitlines()), type(problem).__name__).rstrip(".")
    if error <= SAME[precision]:
        return ""
    restore()
    return f"with them logits or gradients have a relative error of {error:.2g}"


def _restorer(base: Any) -> Callable[[], None]:
    """Undoes what Liger replaces: names in the file of the model's code, and attributes of its modules."""
    namespaces: list[Any] = [vars(sys.modules[type(base).__module__]), *map(vars, base.modules())]
    before = [dict(namespace) for namespace in namespaces]

    def restore() -> None:
        for namespace, values in zip(namespaces, before, strict=True):
            for name in namespace.keys() - values.keys():
                del namespace[name]
            namespace.update(values)

    return restore


def _probed(model: Trainable, rows: Sequence[TokenizedRow], precision: str) -> Probe:
    """Forward and backward as in a step, but without dropout."""
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        logits = row_logits(model, on_device(padded([truncated(row, PROBE_TOKENS) for row in rows]), device))
    logits.float().logsumexp(-1).mean().backward()
    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    model.zero_grad(set_to_none=True)
    model.train(was_training)
    return Probe(logits.detach(), norm)
