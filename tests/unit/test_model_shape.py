"""What the names and shapes in a model's files say of its layers, and which of them an adapter can change."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from support.tinymodel import SHAPES, llama_shapes, safetensors
from tuneyard_api.kinds.training import Lora
from tuneyard_trainer.model.adaptable import adaptable_modules, check_target_modules
from tuneyard_trainer.model.shape import Header, LinearLayer, ModelShape, kind, local_shape, read_header
from tuneyard_trainer.runtime.errors import BadInput

LLAMA = ModelShape({"model_type": "llama"}, llama_shapes(SHAPES))
EXPERTS = {
    f"model.layers.0.mlp.experts.{number}.{name}_proj.weight": (64, 32) if name == "down" else (32, 64)
    for number in range(2)
    for name in ("gate", "up", "down")
}
QWEN3_MOE = ModelShape(
    {"model_type": "qwen3_moe"},
    EXPERTS | {"model.layers.0.mlp.gate.weight": (2, 64), "model.layers.0.self_attn.q_proj.weight": (64, 64)},
)
GPT2 = ModelShape(
    {"model_type": "gpt2"},
    {
        "wte.weight": (512, 64),
        "wpe.weight": (128, 64),
        "h.0.ln_1.weight": (64,),
        "h.0.attn.c_attn.weight": (64, 192),
        "h.0.attn.c_attn.bias": (192,),
        "h.0.mlp.c_fc.weight": (64, 256),
    },
)


class Trickle(io.BytesIO):
    """A stream that returns a few bytes at a time, as one over the network does."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(min(size, 7) if size and size > 0 else size)


@pytest.mark.parametrize("stream", [io.BytesIO, Trickle])
def test_header(stream: type[io.BytesIO]) -> None:
    shapes = {"b": (2, 3), "a": (4,)}
    header = read_header(stream(safetensors(shapes)))
    assert {name: info.shape for name, info in header.tensors.items()} == shapes
    assert [(info.dtype, info.begin, info.end) for info in header.tensors.values()] == [
        ("BF16", 0, 12),
        ("BF16", 12, 20),
    ]
    assert len(safetensors(shapes)) == header.data_start + 20


def as_file(document: Any) -> bytes:
    text = json.dumps(document).encode()
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        safetensors({"a": (2, 2)})[:30],
        as_file({"a": {"dtype": "BF16", "shape": [2]}}),
        as_file({"a": {"dtype": "BF16", "shape": [2], "data_offsets": [0]}}),
        as_file({"a": None}),
        as_file([1]),
        as_file(7),
        (20_000).to_bytes(8, "little") + b"[" * 20_000,
    ],
)
def test_no_safetensors_file(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"header|JSON|Expecting|Unterminated"):
        read_header(io.BytesIO(data))


def test_metadata_is_no_tensor() -> None:
    assert read_header(io.BytesIO(as_file({"__metadata__": {"format": "pt"}}))) == Header({}, 8 + 34)


def test_local_shape(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "1.safetensors").write_bytes(safetensors({"a": (2, 2)}))
    (tmp_path / "2.safetensors").write_bytes(safetensors({"b": (3,)}))
    shape = local_shape(tmp_path, ["1.safetensors", "2.safetensors"])
    assert (shape.model_type, shape.tensors) == ("llama", {"a": (2, 2), "b": (3,)})


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("model.embed_tokens", "embedding"),
        ("model.decoder.embed_positions", "embedding"),
        ("transformer.wte", "embedding"),
        ("transformer.word_embeddings", "embedding"),
        ("gpt_neox.embed_in", "embedding"),
        ("embed_out", "head"),
        ("lm_head", "head"),
        ("model.layers.0.mlp.gate", "router"),
        ("model.layers.0.block_sparse_moe.router.layer", "router"),
        ("model.layers.0.mlp.gate_proj", "linear"),
        ("gpt_neox.layers.0.attention.query_key_value", "linear"),
        ("model.decoder.project_in", "linear"),
    ],
)
def test_kind(module: str, expected: str) -> None:
    assert kind(module) == expected


def test_linear_layers_of_a_mixture() -> None:
    assert LinearLayer("model.layers.0.mlp.experts.1.down_proj", columns=32, rows=64) in QWEN3_MOE.linear_layers
    assert QWEN3_MOE.columns == (32, 64)
    assert QWEN3_MOE.rows == (32, 64)


def test_conv1d_weights_lie_transposed() -> None:
    assert LinearLayer("h.0.attn.c_attn", columns=64, rows=192) in GPT2.linear_layers
    assert GPT2.columns == (64,)


def names_of(shape: ModelShape) -> set[str]:
    return {name for name, why in adaptable_modules(shape).items() if why is None}


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (LLAMA, {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}),
        (GPT2, {"c_attn", "c_fc"}),
        (QWEN3_MOE, {"q_proj", "gate_proj", "up_proj", "down_proj"}),
        (ModelShape({"model_type": "other_moe"}, QWEN3_MOE.tensors), {"q_proj"}),
    ],
)
def test_adaptable_modules(shape: ModelShape, expected: set[str]) -> None:
    assert names_of(shape) == expected


@pytest.mark.parametrize(
    ("shape", "names"),
    [
        (LLAMA, ["all-linear"]),
        (LLAMA, ["q_proj", "self_attn.v_proj"]),
        (GPT2, ["c_attn"]),
        (QWEN3_MOE, ["all-linear"]),
        (QWEN3_MOE, ["q_proj"]),
        (QWEN3_MOE, ["gate_proj", "up_proj"]),
        (ModelShape(), ["anything"]),
    ],
)
def test_accepted(shape: ModelShape, names: list[str]) -> None:
    check_target_modules(Lora(target_modules=names), shape, "s3://models/a")


@pytest.mark.parametrize(
    ("shape", "lora", "text"),
    [
        (LLAMA, {"targetModules": ["q_proj", "nowhere"]}, "nowhere is not a module of the model at s3://models/a"),
        (LLAMA, {"targetModules": ["proj"]}, "proj is not a module"),
        (LLAMA, {"targetModules": ["lm_head"]}, "lm_head cannot be adapted: it is the output layer"),
        (LLAMA, {"targetModules": ["embed_tokens"]}, "embed_tokens cannot be adapted: it is an embedding"),
        (LLAMA, {"targetModules": ["input_layernorm"]}, "input_layernorm cannot be adapted: it is no linear layer"),
        (QWEN3_MOE, {"targetModules": ["gate"]}, "gate cannot be adapted: it is a router"),
        (QWEN3_MOE, {"targetModules": ["gate_proj"]}, "Add up_proj."),
        (QWEN3_MOE, {"targetModules": ["all-linear"], "dropout": 0.1}, "Set training.lora.dropout: 0"),
        (QWEN3_MOE, {"targetModules": ["all-linear"], "variant": "dora"}, "for which PEFT has no DoRA"),
        (
            ModelShape({"model_type": "other_moe"}, QWEN3_MOE.tensors),
            {"targetModules": ["gate_proj"]},
            "gate_proj cannot be adapted: it is a part of the experts",
        ),
    ],
)
def test_refused(shape: ModelShape, lora: dict[str, Any], text: str) -> None:
    with pytest.raises(BadInput) as error:
        check_target_modules(Lora.model_validate(lora), shape, "s3://models/a")
    assert text in str(error.value)


def test_the_known_modules_are_listed() -> None:
    with pytest.raises(BadInput, match=r"Write \[all-linear\], or names of: c_attn, c_fc\."):
        check_target_modules(Lora(target_modules=["q_proj"]), GPT2, "s3://models/a")
