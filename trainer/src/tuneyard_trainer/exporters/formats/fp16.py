"""fp16: the merged model in float16, for GPUs without bfloat16 (compute capability below 8.0).

float16 ends at 65504: a model whose weights or activations are larger becomes infinite, which the comparison with the
merged model finds.
"""

from collections.abc import Sequence
from typing import Final

from tuneyard_trainer.exporters import llmcompressor
from tuneyard_trainer.exporters.base import ArtifactFormat, Recipe
from tuneyard_trainer.metrics.scorers import TRANSFORMERS
from tuneyard_trainer.model.shape import ModelShape


def recipe(shape: ModelShape, ignore: Sequence[str]) -> Recipe:
    return Recipe([], dtype="float16")


FORMAT: Final = ArtifactFormat(export=llmcompressor.quantize, scorer=TRANSFORMERS, recipe=recipe)
