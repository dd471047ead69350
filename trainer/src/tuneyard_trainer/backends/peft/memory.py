"""Memory: what its end looks like, and an optimizer that is not on the GPU."""

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch

from tuneyard_api import reasons
from tuneyard_trainer.runtime.errors import DoesNotFit

# What torch, cuBLAS, bitsandbytes and the C library say; of torch's own errors only CUDA's has a class.
OUT_OF_MEMORY: Final = re.compile(
    r"out of memory|can't allocate memory|not enough memory|Cannot allocate memory|_ALLOC_FAILED", re.IGNORECASE
)
ADVICE: Final = (
    "Lower training.microBatchSize or training.maxLength, set training.gradientCheckpointing: true or "
    "training.method: qlora, or use a GPU with more memory; training.oomRecovery: true does some of it by itself."
)


def is_out_of_memory(error: BaseException) -> bool:
    named = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return named or (isinstance(error, RuntimeError | OSError) and OUT_OF_MEMORY.search(str(error)) is not None)


@contextmanager
def told_as_does_not_fit(when: Callable[[], str]) -> Iterator[None]:
    """Raises DoesNotFit in place of an error of memory; `when` says at which point of the run that was."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        text = next(iter(str(error).splitlines()), type(error).__name__)
        raise DoesNotFit(reasons.OUT_OF_MEMORY, f"Out of memory {when()}: {text}", ADVICE) from error


class OffloadedAdamW(torch.optim.AdamW):  # type: ignore[misc]
    """AdamW (arXiv:1711.05101) whose moments and update are on the CPU: of each parameter the GPU has only value and
    gradient. Its state is that of AdamW, so that a run may go over to it from a checkpoint.

    Args:
        groups: of parameters, as torch.optim takes them.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], **options: Any) -> None:
        self._pairs: list[tuple[torch.Tensor, torch.Tensor]] = []
        offloaded = []
        for group in groups:
            copies = [parameter.detach().to("cpu", copy=True).requires_grad_() for parameter in group["params"]]
            self._pairs += zip(group["params"], copies, strict=True)
            offloaded.append({**group, "params": copies})
        super().__init__(offloaded, **options)

    def step(self, closure: Any = None) -> Any:
        """The update, from the present values and gradients of the parameters."""
        with torch.no_grad():
            for parameter, copy in self._pairs:
                copy.copy_(parameter)
                copy.grad = None if parameter.grad is None else parameter.grad.to("cpu", copy=True)
            loss = super().step(closure)
            for parameter, copy in self._pairs:
                parameter.copy_(copy)
                copy.grad = None
        return loss
