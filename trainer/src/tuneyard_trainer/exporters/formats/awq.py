"""INT4 W4A16 asymmetric: 4-bit weights in groups, with the channels that matter scaled up before they are rounded.

AWQ (Lin et al. 2023, arXiv:2306.00978). It needs to know between which layers scales may be moved (see smoothing.py).
"""

from collections.abc import Sequence
from typing import Any, Final

from tuneyard_trainer.exporters import llmcompressor
from tuneyard_trainer.exporters.base import ArtifactFormat, Recipe
from tuneyard_trainer.exporters.formats.gptq import ungrouped, weights
from tuneyard_trainer.exporters.smoothing import PAIRS, awq_mappings, pairs
from tuneyard_trainer.metrics.scorers import TRANSFORMERS
from tuneyard_trainer.model.shape import ModelShape


def misfit(shape: ModelShape) -> str | None:
    if not pairs(shape):
        kind = shape.model_type or "this model"
        return f"awq is not known to be right for {kind}, only for {', '.join(sorted(PAIRS))}; gptq has as many bits"
    return llmcompressor.misfit(shape) or ungrouped("awq", shape)


def recipe(shape: ModelShape, ignore: Sequence[str]) -> Recipe:
    from llmcompressor.modifiers.transform.awq import AWQModifier  # noqa: PLC0415 - the quantizer's environment only

    def rounding() -> list[Any]:
        return llmcompressor.nearest({"weights": weights(shape, symmetric=False)}, ignore)

    # AWQ only moves scales; the weights are rounded after it.
    return Recipe([AWQModifier(mappings=awq_mappings(shape)), *rounding()], rounding())


FORMAT: Final = ArtifactFormat(export=llmcompressor.quantize, scorer=TRANSFORMERS, misfit=misfit, recipe=recipe)
