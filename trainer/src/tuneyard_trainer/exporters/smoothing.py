"""Which layers an activation's scale can be moved between without changing what the model computes.

SmoothQuant and AWQ divide the output of one layer by a scale for each channel, and multiply the columns of all layers
that read it. Wrong pairs give a model that computes something else: llmcompressor's defaults name the norm after
Gemma 2's attention as the one that feeds its MLP. So this table has only what was checked, by model type: an
architecture that it lacks is quantized without smoothing (int8), or not at all (awq). tests/integration compares the
logits for each.

The pairs follow llmcompressor's own tables for these architectures (llmcompressor.modifiers.transform).
"""

from typing import Any, Final, NamedTuple

from tuneyard_trainer.model.shape import ModelShape


class Pair(NamedTuple):
    """A layer whose output is divided by the scales, and all layers that read this output and nothing else does."""

    source: str
    """The last part of the layer's name."""
    readers: tuple[str, ...]


QKV: Final = ("q_proj", "k_proj", "v_proj")
GATE_UP: Final = ("gate_proj", "up_proj")
ATTENTION_INPUT: Final = Pair("input_layernorm", QKV)
ATTENTION_OUTPUT: Final = Pair("v_proj", ("o_proj",))
MLP_OUTPUT: Final = Pair("up_proj", ("down_proj",))

# A block that norms, attends, adds, norms, multiplies and adds, one after the other.
PRE_NORM: Final = (ATTENTION_INPUT, Pair("post_attention_layernorm", GATE_UP), ATTENTION_OUTPUT, MLP_OUTPUT)
# The same with a norm after attention, so that the MLP reads another one.
SANDWICH: Final = (ATTENTION_INPUT, Pair("pre_feedforward_layernorm", GATE_UP), ATTENTION_OUTPUT, MLP_OUTPUT)
# Norms only after attention and MLP: nothing is normed before them.
POST_NORM: Final = (ATTENTION_OUTPUT, MLP_OUTPUT)
# Attention and MLP read the same norm.
PARALLEL: Final = (Pair("input_layernorm", (*QKV, *GATE_UP)), ATTENTION_OUTPUT, MLP_OUTPUT)
FUSED: Final = (Pair("input_layernorm", ("qkv_proj",)), Pair("post_attention_layernorm", ("gate_up_proj",)))

PAIRS: Final[dict[str, tuple[Pair, ...]]] = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "smollm3", "granite", "seed_oss"), PRE_NORM),
    **dict.fromkeys(("gemma2", "gemma3_text"), SANDWICH),
    **dict.fromkeys(("olmo2", "olmo3", "exaone4"), POST_NORM),
    **dict.fromkeys(("cohere", "cohere2"), PARALLEL),
    "phi3": FUSED,
}


def pairs(shape: ModelShape) -> tuple[Pair, ...]:
    """The pairs of an architecture; none where they are not known."""
    return PAIRS.get(shape.model_type, ())


def smoothquant_mappings(shape: ModelShape) -> list[Any]:
    """SmoothQuantModifier's mappings: of the norms, as SmoothQuant smooths what the norms put out."""
    return [
        [[_pattern(name) for name in pair.readers], _pattern(pair.source)]
        for pair in pairs(shape)
        if pair.source.endswith("norm")
    ]


def awq_mappings(shape: ModelShape) -> list[Any]:
    """AWQModifier's mappings; called in the quantizer's environment."""
    from llmcompressor.modifiers.transform.awq import AWQMapping  # noqa: PLC0415 - the quantizer's environment only

    return [AWQMapping(_pattern(pair.source), [_pattern(name) for name in pair.readers]) for pair in pairs(shape)]


def _pattern(name: str) -> str:
    return rf"re:.*\.{name}$"
