"""When a quantized artifact counts as the same function as the merged model."""

import math

import pytest

from support.tinymodel import SHAPES, llama_shapes
from tuneyard_api import reasons
from tuneyard_api.kinds.finetunejob_status import Fidelity
from tuneyard_trainer.exporters import format_of
from tuneyard_trainer.exporters.fidelity import bound, check, described, rounded
from tuneyard_trainer.exporters.smoothing import PAIRS, smoothquant_mappings
from tuneyard_trainer.model.shape import ModelShape
from tuneyard_trainer.runtime.errors import BadInput


def figures(logits_error: float, kl: float = 0.001) -> Fidelity:
    return Fidelity(kl=kl, changed_top1=0.01, logits_error=logits_error)


@pytest.mark.parametrize(
    ("nearest", "limit"),
    [(0.01, 0.03), (0.1, 0.21), (0.4, 0.5), (None, 0.5)],
)
def test_bound(nearest: float | None, limit: float) -> None:
    assert bound(nearest) == pytest.approx(limit)


@pytest.mark.parametrize(
    ("found", "nearest"),
    [
        (figures(0.009), 0.01),  # int8 of a Llama
        (figures(0.19), 0.2),  # gptq of a tiny random model
        (figures(0.0), None),  # fp16
    ],
)
def test_the_same_function(found: Fidelity, nearest: float | None) -> None:
    check("int8", found, nearest)


@pytest.mark.parametrize(
    ("found", "nearest"),
    [
        (figures(0.86), 0.023),  # Gemma 2 with the norm smoothed that its MLP does not read
        (figures(0.08), 0.02),
        (figures(0.55), 0.4),
        (figures(0.55), None),
        (figures(0.1, kl=1.5), 0.1),
        (rounded(0.001, 0.0, math.inf), None),
        (rounded(0.001, 0.0, math.nan), 0.1),
        (rounded(math.nan, 0.0, 0.01), 0.1),
    ],
)
def test_another_function(found: Fidelity, nearest: float | None) -> None:
    with pytest.raises(BadInput, match="int8 does not compute what the merged model does") as error:
        check("int8", found, nearest)
    assert error.value.reason == reasons.QUANTIZATION_DIVERGED
    assert "Remove int8 from export.formats" in error.value.advice


def test_the_message_has_the_figures() -> None:
    with pytest.raises(BadInput) as error:
        check("int8", figures(0.86), 0.023)
    for text in ("0.86", "at most 0.056", "plain rounding to this width gives 0.023", "1.0 % other most likely tokens"):
        assert text in error.value.message


def test_figures_are_short_and_finite() -> None:
    assert rounded(0.00123456, 0.5, 0.123456) == Fidelity(kl=0.001235, changed_top1=0.5, logits_error=0.1235)
    assert rounded(math.nan, 0.0, math.inf) == Fidelity(kl=1e9, changed_top1=0.0, logits_error=1e9)


def test_described() -> None:
    assert described(figures(0.02)) == (
        "Against the merged model: 0.0010 nats of KL divergence per token, 1.0 % other most likely tokens, "
        "logits error 0.0200."
    )


def test_gemma_2_smooths_the_norm_that_its_mlp_reads() -> None:
    gate_up = ["re:.*\\.gate_proj$", "re:.*\\.up_proj$"]
    assert [gate_up, "re:.*\\.pre_feedforward_layernorm$"] in smoothquant_mappings(ModelShape({"model_type": "gemma2"}))
    assert [gate_up, "re:.*\\.post_attention_layernorm$"] in smoothquant_mappings(ModelShape({"model_type": "llama"}))


@pytest.mark.parametrize("model_type", ["gpt_neox", "phi", "falcon", "never-seen", ""])
def test_what_is_not_known_is_not_smoothed(model_type: str) -> None:
    shape = ModelShape({"model_type": model_type}, llama_shapes(SHAPES))
    assert smoothquant_mappings(shape) == []
    assert format_of("int8").misfit(shape) is None
    assert "awq is not known to be right for" in str(format_of("awq").misfit(shape))


@pytest.mark.parametrize("model_type", PAIRS)
def test_a_scale_is_moved_once(model_type: str) -> None:
    """No layer reads two smoothed outputs."""
    readers = [reader for pair in PAIRS[model_type] for reader in pair.readers]
    assert len(readers) == len(set(readers))
