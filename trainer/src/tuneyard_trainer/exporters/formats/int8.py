"""INT8 W8A8: weights per channel by GPTQ, activations per token at run time.

SmoothQuant (Xiao et al. 2022, arXiv:2211.10438) moves outliers into the weights first, where it is known between which
layers (see smoothing.py). A scale per channel fits every width.
"""

from collections.abc import Sequence
from typing import Any, Final

from tuneyard_trainer.exporters import llmcompressor
from tuneyard_trainer.exporters.base import ArtifactFormat, Recipe
from tuneyard_trainer.exporters.formats.gptq import BATCH, BLOCK_SIZE
from tuneyard_trainer.exporters.smoothing import smoothquant_mappings
from tuneyard_trainer.metrics.scorers import TRANSFORMERS
from tuneyard_trainer.model.shape import ModelShape

STRENGTH: Final = 0.8  # of smoothing: llmcompressor's own W8A8 examples
WEIGHTS: Final[dict[str, Any]] = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}
ACTIVATIONS: Final[dict[str, Any]] = WEIGHTS | {"strategy": "token", "dynamic": True}


def recipe(shape: ModelShape, ignore: Sequence[str]) -> Recipe:
    from llmcompressor.modifiers.gptq import GPTQModifier  # noqa: PLC0415 - the quantizer's environment only
    from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier  # noqa: PLC0415

    mappings = smoothquant_mappings(shape)
    smooth = [SmoothQuantModifier(smoothing_strength=STRENGTH, mappings=mappings)] if mappings else []
    gptq = GPTQModifier(
        targets="Linear", scheme="W8A8", ignore=list(ignore), block_size=BLOCK_SIZE, batched_quantization=BATCH
    )
    plain = llmcompressor.nearest({"weights": WEIGHTS, "input_activations": ACTIVATIONS}, ignore)
    return Recipe([*smooth, gptq], plain)


FORMAT: Final = ArtifactFormat(
    export=llmcompressor.quantize, scorer=TRANSFORMERS, misfit=llmcompressor.misfit, recipe=recipe
)
