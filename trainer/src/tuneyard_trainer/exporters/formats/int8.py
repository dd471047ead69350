"""INT8 W8A8: weights per channel by GPTQ, activations per token at run time.

SmoothQuant (Xiao et al. 2022, arXiv:2211.10438) moves outliers into the weights first. A scale per channel fits every
shape.
"""

from typing import Any, Final

from tuneyard_trainer.exporters import llmcompressor
from tuneyard_trainer.exporters.base import ArtifactFormat
from tuneyard_trainer.exporters.formats.gptq import BATCH, BLOCK_SIZE
from tuneyard_trainer.metrics.scorers import TRANSFORMERS
from tuneyard_trainer.model.shape import ModelShape

SMOOTHING: Final = 0.8  # llmcompressor's own W8A8 examples


def recipe(shape: ModelShape) -> list[Any]:
    from llmcompressor.modifiers.gptq import GPTQModifier  # noqa: PLC0415 - the quantizer's environment only
    from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier  # noqa: PLC0415

    return [
        SmoothQuantModifier(smoothing_strength=SMOOTHING),
        GPTQModifier(
            targets="Linear", scheme="W8A8", ignore=["lm_head"], block_size=BLOCK_SIZE, batched_quantization=BATCH
        ),
    ]


FORMAT: Final = ArtifactFormat(
    export=llmcompressor.quantize, scorer=TRANSFORMERS, misfit=llmcompressor.misfit, recipe=recipe
)
