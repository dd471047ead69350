"""Artifact formats and the models that they fit."""

from pathlib import Path

import pytest

from support.tinymodel import SHAPES, llama_shapes
from tuneyard_api import names
from tuneyard_api.kinds.export import Export
from tuneyard_trainer import exporters
from tuneyard_trainer.exporters import check_formats, fitting_rungs, format_of
from tuneyard_trainer.exporters.formats.gptq import group_size
from tuneyard_trainer.model.shape import ModelShape
from tuneyard_trainer.runtime.errors import BadInput

OPT = {"model.decoder.layers.0.fc1.weight": (100, 64), "model.decoder.layers.0.fc2.weight": (64, 100)}
GPT2 = {"h.0.attn.c_attn.weight": (64, 192), "wte.weight": (512, 64), "wpe.weight": (64, 64)}
ROUTER = {"model.layers.0.mlp.gate.weight": (4, 64)}
SINGLE = {"model.layers.0.mlp.experts.0.gate_proj.weight": (128, 64)}
JOINT = {"model.layers.0.mlp.experts.gate_up_proj": (4, 64, 128)}

QUANTIZED = ("int8", "gptq", "fp8", "awq")


@pytest.mark.parametrize(
    ("columns", "size"),
    [
        ([4096, 14336], 128),
        ([2048, 8192], 128),  # Llama 3.2 1B
        ([1024, 3072], 64),  # Qwen 3 0.6B
        ([576, 1536], 32),  # SmolLM2-135M
        ([96, 1536], 32),
        ([128], 32),
        ([100, 4096], None),
        ([16], None),
    ],
)
def test_group_size(columns: list[int], size: int | None) -> None:
    assert group_size(columns) == size


def test_a_width_that_does_not_divide_is_named_by_its_layer() -> None:
    """Whatever config.json calls it: OPT has ffn_dim."""
    message = format_of("gptq").misfit(ModelShape({"model_type": "opt", "ffn_dim": 100}, OPT))
    assert message is not None
    assert "divisible by 32" in message
    assert "model.decoder.layers.0.fc2 of this model has 100" in message


@pytest.mark.parametrize("name", ["bf16", "fp16", "int8", "fp8"])
def test_fits_every_width(name: str) -> None:
    assert format_of(name).misfit(ModelShape({"model_type": "opt"}, OPT)) is None


@pytest.mark.parametrize("name", QUANTIZED)
def test_transposed_layers(name: str) -> None:
    assert format_of(name).misfit(ModelShape({"model_type": "gpt2"}, GPT2))


def test_why_transposed_layers_do_not_fit() -> None:
    assert "Conv1D" in str(format_of("int8").misfit(ModelShape({"model_type": "gpt2"}, GPT2)))


def test_packed_weights_that_cannot_be_read_back() -> None:
    shape = ModelShape({"model_type": "gpt_bigcode"}, llama_shapes(SHAPES))
    assert format_of("gptq").misfit(shape) == "packed 4-bit weights of gpt_bigcode cannot be read by transformers"
    assert format_of("int8").misfit(shape) is None


@pytest.mark.parametrize("experts", [JOINT, SINGLE])
@pytest.mark.parametrize("name", QUANTIZED)
def test_experts(name: str, experts: dict[str, tuple[int, ...]]) -> None:
    assert format_of(name).misfit(ModelShape({"model_type": "llama"}, {**ROUTER, **experts})) == (
        f"the experts of a mixture ({next(iter(experts))}) cannot be quantized"
    )


@pytest.mark.parametrize("name", [*QUANTIZED, "bf16", "fp16"])
def test_llama_fits(name: str) -> None:
    assert format_of(name).misfit(ModelShape({"model_type": "llama"}, llama_shapes(SHAPES))) is None


def test_check_formats() -> None:
    check_formats(Export(formats=["bf16", "int8"]), ModelShape({}, OPT), "s3://models/a")
    with pytest.raises(BadInput, match=r"s3://models/a.*Remove gptq from export\.formats"):
        check_formats(Export(formats=["bf16", "gptq"]), ModelShape({}, OPT), "s3://models/a")


def test_a_ladder_leaves_out_what_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GPTQ needs input columns that divide by 32, which those of this model do not."""
    monkeypatch.setattr(exporters, "local_shape", lambda directory, files: ModelShape({}, OPT))
    check_formats(Export(formats=["auto"]), ModelShape({}, OPT), "s3://models/a")
    assert fitting_rungs(Export(formats=["auto"]), tmp_path) == ["int8", "bf16"]


def test_a_ladder_without_a_rung_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(names.ENV_LLAMACPP, raising=False)
    with pytest.raises(BadInput, match=r"llama\.cpp, which is not installed.*Remove auto-gguf from export\.formats"):
        check_formats(Export(formats=["auto-gguf"]), ModelShape({}, OPT), "s3://models/a")
