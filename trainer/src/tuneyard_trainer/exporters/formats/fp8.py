"""FP8: weights per channel and activations per token in 8-bit floating point (E4M3), without calibration.

vLLM computes with it on GPUs of compute capability 8.9 and later, and converts the weights on others (vLLM's
documentation, "FP8 W8A8"; Micikevicius et al. 2022, arXiv:2209.05433).
"""

from collections.abc import Sequence
from typing import Any, Final

from tuneyard_trainer.exporters import llmcompressor
from tuneyard_trainer.exporters.base import ArtifactFormat, Recipe
from tuneyard_trainer.metrics.scorers import TRANSFORMERS
from tuneyard_trainer.model.shape import ModelShape

WEIGHTS: Final[dict[str, Any]] = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "channel"}
ACTIVATIONS: Final[dict[str, Any]] = WEIGHTS | {"strategy": "token", "dynamic": True}


def recipe(shape: ModelShape, ignore: Sequence[str]) -> Recipe:
    return Recipe(llmcompressor.nearest({"weights": WEIGHTS, "input_activations": ACTIVATIONS}, ignore))


FORMAT: Final = ArtifactFormat(
    export=llmcompressor.quantize, scorer=TRANSFORMERS, misfit=llmcompressor.misfit, recipe=recipe
)
