"""Quantized formats: a new one is one file with a recipe and one line here.

Importing this is cheap; llmcompressor is imported only where a recipe is built, in the quantizer's environment.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from tuneyard_trainer.exporters.llmcompressor import gptq, int8


class Quantization(NamedTuple):
    """One format: why it does not fit a model's shapes (or None), and llmcompressor's modifiers for it."""

    misfit: Callable[[Iterable[int]], str | None]
    recipe: Callable[[Iterable[int]], list[Any]]


QUANTIZATIONS: Final[dict[str, Quantization]] = {
    "int8": Quantization(int8.misfit, int8.recipe),
    "gptq": Quantization(gptq.misfit, gptq.recipe),
}


def misfit(name: str, columns: Iterable[int]) -> str | None:
    """Why a format cannot be made of a model whose linear layers have these input widths; None if it can."""
    return QUANTIZATIONS[name].misfit(columns) if name in QUANTIZATIONS else None
