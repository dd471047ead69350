"""INT4 W4A16: 4-bit weights in groups, by GPTQ (Frantar et al. 2022, arXiv:2210.17323)."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from tuneyard_trainer.exporters import llmcompressor
from tuneyard_trainer.exporters.base import ArtifactFormat, Recipe
from tuneyard_trainer.metrics.scorers import TRANSFORMERS
from tuneyard_trainer.model.shape import ModelShape

# Largest first: fewer scales, smaller files. 128 is what the field publishes; 32 is what the kernels need at least.
GROUP_SIZES: Final = (128, 64, 32)
# Groups in a row, at least, where a size allows it: few columns have few weights to make up for a coarse scale.
# Measured on SmolLM2-135M, whose rows have 576 columns: docs/quantization.md.
GROUPS: Final = 16

# Columns that are updated together: results differ by rounding only, and on a CPU small blocks stay in the cache.
BLOCK_SIZE: Final = 32
# The scale of a group minimises the squared error. Scales from the range of the values cost a tuned SmolLM2-135M 13 %
# of perplexity instead of 7 %.
OBSERVER: Final = "memoryless_mse"
# Layers of the same shape that are quantized together, such as gate and up, or key and value.
BATCH: Final = 8
# Architectures whose code in transformers asks for the weight of a linear layer while the model is read, and packed
# layers have none (found in `_init_weights` of transformers 5).
READ_UNPACKED: Final = frozenset({"gpt_bigcode", "falcon_mamba", "mamba", "mamba2", "nanochat", "recurrent_gemma"})


def group_size(columns: Iterable[int]) -> int | None:
    """The largest group that divides the input columns of every linear layer and leaves GROUPS in the narrowest.

    The smallest one that divides them where none leaves so many; None where none divides them.
    """
    widths = set(columns)
    fitting = [size for size in GROUP_SIZES if all(width % size == 0 for width in widths)]
    fine = [size for size in fitting if all(width >= GROUPS * size for width in widths)]
    return next(iter([*fine, *reversed(fitting)]), None)


def misfit(shape: ModelShape) -> str | None:
    if shape.model_type in READ_UNPACKED:
        return f"packed 4-bit weights of {shape.model_type} cannot be read by transformers"
    return llmcompressor.misfit(shape) or ungrouped("gptq", shape)


def ungrouped(name: str, shape: ModelShape) -> str | None:
    """Why the linear layers cannot be divided into groups; None where they can."""
    if group_size(shape.columns):
        return None
    odd = next(layer for layer in shape.linear_layers if layer.columns % GROUP_SIZES[-1])
    return (
        f"{name} needs linear layers whose input columns are divisible by {GROUP_SIZES[-1]}; "
        f"{odd.module} of this model has {odd.columns}"
    )


def weights(shape: ModelShape, *, symmetric: bool) -> dict[str, Any]:
    """The 4-bit weights of compressed-tensors."""
    size = group_size(shape.columns)
    return {"num_bits": 4, "type": "int", "symmetric": symmetric, "strategy": "group", "group_size": size}


def recipe(shape: ModelShape, ignore: Sequence[str]) -> Recipe:
    from llmcompressor.modifiers.gptq import GPTQModifier  # noqa: PLC0415 - the quantizer's environment only

    rounded = weights(shape, symmetric=True)
    groups = {"group_0": {"targets": ["Linear"], "weights": rounded | {"observer": OBSERVER}}}
    gptq = GPTQModifier(config_groups=groups, ignore=list(ignore), block_size=BLOCK_SIZE, batched_quantization=BATCH)
    return Recipe([gptq], llmcompressor.nearest({"weights": rounded}, ignore))


FORMAT: Final = ArtifactFormat(export=llmcompressor.quantize, scorer=TRANSFORMERS, misfit=misfit, recipe=recipe)
