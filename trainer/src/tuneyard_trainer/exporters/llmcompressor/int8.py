"""INT8 W8A8: weights per channel by GPTQ, activations per token at run time, outliers moved into the weights first by
SmoothQuant (Xiao et al. 2022, arXiv:2211.10438)."""

from collections.abc import Iterable
from typing import Any, Final

from tuneyard_trainer.exporters.llmcompressor.gptq import BATCH, BLOCK_SIZE

SMOOTHING: Final = 0.8  # llmcompressor's own W8A8 examples


def misfit(columns: Iterable[int]) -> str | None:
    """Never: a scale per channel fits every shape."""
    return None


def recipe(columns: Iterable[int]) -> list[Any]:
    from llmcompressor.modifiers.gptq import GPTQModifier  # noqa: PLC0415 - the quantizer's environment only
    from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier  # noqa: PLC0415

    return [
        SmoothQuantModifier(smoothing_strength=SMOOTHING),
        GPTQModifier(
            targets="Linear", scheme="W8A8", ignore=["lm_head"], block_size=BLOCK_SIZE, batched_quantization=BATCH
        ),
    ]
