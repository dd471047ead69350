"""prepare refuses a base model that cannot be tuned before a GPU is asked for, and says which file and what to do."""

import json
import logging
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from support.models import (
    URI,
    Change,
    Files,
    check,
    header_of,
    laid_out,
    replaced,
    retensored,
    tiny_model,
    with_header,
    with_json,
    with_tensor,
    without_tensor,
)
from tuneyard_trainer.model.architectures import kind_of, known_types, structure_of
from tuneyard_trainer.model.checks.vocabulary import embedding_rows
from tuneyard_trainer.runtime.errors import BadInput

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 5368709120\n"
PAGE = b"<!DOCTYPE html>\n<html><body>Sign in</body></html>"
CONFIG = json.dumps({"model_type": "llama"}).encode()


class Case(NamedTuple):
    change: Change
    reason: str
    words: list[str]
    training: dict[str, Any] = {}


def gone(name: str) -> Change:
    return lambda files: files.pop(name)


def renamed(name: str, to: str) -> Change:
    def change(files: Files) -> None:
        files[to] = files.pop(name)

    return change


def cut(name: str, to: int) -> Change:
    def change(files: Files) -> None:
        files[name] = files[name][:to]

    return change


def longer(files: Files) -> None:
    files[WEIGHTS] += b"more"


def entry(name: str, **fields: Any) -> Change:
    """Changes an entry of the header as it stands, offsets included."""

    def change(files: Files) -> None:
        header = header_of(files[WEIGHTS])
        header[name] = header[name] | fields
        files[WEIGHTS] = with_header(header, 2**16)

    return change


def sharded(index: Any, shards: int = 2) -> Change:
    """The weights in several files, with this index."""

    def change(files: Files) -> None:
        weights = files.pop(WEIGHTS)
        for number in range(1, shards + 1):
            files[f"model-{number:05}-of-00002.safetensors"] = weights
        files[INDEX] = index if isinstance(index, bytes) else json.dumps(index).encode()

    return change


def both(*changes: Change) -> Change:
    def change(files: Files) -> None:
        for item in changes:
            item(files)

    return change


def config(**changes: Any) -> Change:
    return with_json("config.json", **changes)


def second_layer(files: Files) -> None:
    """The weights of two layers; config.json says one."""
    tensors = header_of(files[WEIGHTS])
    again = {name.replace("layers.0", "layers.1"): entry for name, entry in tensors.items() if "layers.0" in name}
    files[WEIGHTS] = laid_out(tensors | again)


NORM = "model.norm.weight"
UP = "model.layers.0.mlp.up_proj.weight"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
MISSING, INVALID, UNSUPPORTED = "ModelWeightsMissing", "InvalidModel", "UnsupportedModel"

CASES: dict[str, Case] = {
    # Weights that are none.
    "weights are pointers": Case(replaced(WEIGHTS, POINTER), MISSING, [f"{URI}/{WEIGHTS}", "Git LFS", "git lfs pull"]),
    "weights are empty": Case(replaced(WEIGHTS, b""), MISSING, [f"{URI}/{WEIGHTS}", "0 bytes", "Upload"]),
    "weights are a page": Case(replaced(WEIGHTS, PAGE), MISSING, [WEIGHTS, "web page"]),
    "weights are an archive": Case(replaced(WEIGHTS, b"PK\x03\x04" + bytes(99)), MISSING, [WEIGHTS, "ZIP"]),
    "weights are noise": Case(replaced(WEIGHTS, b"\xff" * 99), INVALID, [WEIGHTS, "not a safetensors file"]),
    "weights are short noise": Case(replaced(WEIGHTS, b"abc"), INVALID, [WEIGHTS, "not a safetensors file"]),
    "cut in the tensors": Case(cut(WEIGHTS, 5000), MISSING, [WEIGHTS, "truncated", "has 5000 bytes", "SHA-256"]),
    "cut in the header": Case(cut(WEIGHTS, 100), MISSING, [WEIGHTS, "truncated", "within its header"]),
    "longer than the header says": Case(longer, INVALID, [WEIGHTS, "describes only"]),
    "header is no JSON": Case(replaced(WEIGHTS, b"\x04\0\0\0\0\0\0\0{{}}"), INVALID, [WEIGHTS, "not JSON"]),
    "entry without a shape": Case(entry(NORM, shape=None), INVALID, [WEIGHTS, NORM]),
    "entry with a negative size": Case(entry(NORM, shape=[-64]), INVALID, [WEIGHTS, NORM]),
    "entry of an unknown type": Case(entry(NORM, dtype="F12"), INVALID, [WEIGHTS, NORM, "F12"]),
    "offsets do not fit": Case(entry(NORM, data_offsets=[0, 7]), INVALID, [WEIGHTS, NORM, "data_offsets"]),
    "offsets overlap": Case(entry(NORM, data_offsets=[2, 130]), INVALID, [WEIGHTS, "begin"]),
    # Shards and their index.
    "a shard is missing": Case(
        sharded({"weight_map": {NORM: FIRST, UP: SECOND}}, shards=1), MISSING, [SECOND, "missing", URI]
    ),
    "a shard is a pointer": Case(
        both(sharded({"weight_map": {NORM: FIRST, UP: SECOND}}), replaced(SECOND, POINTER)), MISSING, [SECOND, "LFS"]
    ),
    "a shard is cut": Case(
        both(sharded({"weight_map": {NORM: FIRST, UP: SECOND}}), cut(SECOND, 9000)), MISSING, [SECOND, "truncated"]
    ),
    "a tensor of the index is missing": Case(
        sharded({"weight_map": {NORM: FIRST, "a.b": SECOND}}), MISSING, [SECOND, "a.b", INDEX]
    ),
    "index without weight_map": Case(sharded({"metadata": {}}), INVALID, [f"{URI}/{INDEX}", "no weight_map"]),
    "weight_map is a list": Case(sharded({"weight_map": [FIRST]}), INVALID, [INDEX, "weight_map"]),
    "weight_map is empty": Case(sharded({"weight_map": {}}), INVALID, [INDEX, "weight_map"]),
    "weight_map names a number": Case(sharded({"weight_map": {NORM: 1}}), INVALID, [INDEX, NORM]),
    "weight_map leaves the directory": Case(
        sharded({"weight_map": {NORM: "../other/model.safetensors"}}), INVALID, [INDEX, "../other"]
    ),
    "index is a pointer": Case(sharded(POINTER), INVALID, [f"{URI}/{INDEX}", "Git LFS"]),
    "index is empty": Case(sharded(b""), INVALID, [INDEX, "0 bytes"]),
    "index is a list": Case(sharded([1]), INVALID, [INDEX, "array"]),
    "only .bin": Case(renamed(WEIGHTS, "pytorch_model.bin"), MISSING, ["pytorch_model.bin", "save_pretrained"]),
    "only GGUF": Case(
        both(gone("config.json"), renamed(WEIGHTS, "model-q4_k_m.gguf")), "ModelNotFound", ["model-q4_k_m.gguf"]
    ),
    "one folder too high": Case(
        both(renamed("config.json", "checkpoint-10/config.json")), "ModelNotFound", ["checkpoint-10/config.json"]
    ),
    "only Mistral's own file": Case(renamed(WEIGHTS, "consolidated.safetensors"), MISSING, [WEIGHTS]),
    # The small files.
    "config is a pointer": Case(replaced("config.json", POINTER), INVALID, [f"{URI}/config.json", "Git LFS"]),
    "config is empty": Case(replaced("config.json", b""), INVALID, [f"{URI}/config.json", "0 bytes"]),
    "config has a comma too many": Case(
        replaced("config.json", b'{\n "model_type": "llama",\n}'), INVALID, ["config.json, line 3, column 1"]
    ),
    "config is cut": Case(cut("config.json", 40), INVALID, [f"{URI}/config.json, line 1"]),
    "config has a BOM": Case(replaced("config.json", b"\xef\xbb\xbf" + CONFIG), INVALID, ["config.json", "BOM"]),
    "config is UTF-16": Case(
        replaced("config.json", CONFIG.decode().encode("utf-16")), INVALID, ["config.json", "byte 1", "UTF-8"]
    ),
    "config is a list": Case(replaced("config.json", b"[]"), INVALID, ["config.json", "array"]),
    "config is null": Case(replaced("config.json", b"null"), INVALID, ["config.json", "null"]),
    "config is deep": Case(replaced("config.json", b'{"a":' * 100_000), INVALID, ["config.json", "nested"]),
    "config has a long number": Case(
        replaced("config.json", b'{"a": ' + b"1" * 5000 + b"}"), INVALID, ["config.json", "digits"]
    ),
    "config has NaN": Case(
        replaced("config.json", b'{"model_type": "llama", "rope": {"theta": [NaN]}}'),
        INVALID,
        ["config.json", "rope.theta[0]", "nan"],
    ),
    "config has infinity": Case(
        replaced("config.json", b'{"model_type": "llama", "rms_norm_eps": -Infinity}'),
        INVALID,
        ["rms_norm_eps", "-inf"],
    ),
    "config has half a character": Case(
        replaced("config.json", b'{"model_type": "llama", "note": "\\ud800"}'), INVALID, ["config.json", "note"]
    ),
    "tokenizer_config has a BOM": Case(
        replaced("tokenizer_config.json", b"\xef\xbb\xbf{}"), INVALID, [f"{URI}/tokenizer_config.json", "BOM"]
    ),
    "tokenizer_config has a comma too many": Case(
        replaced("tokenizer_config.json", b'{"a": 1,}'), INVALID, ["tokenizer_config.json, line 1, column 9"]
    ),
    "tokenizer_config is a pointer": Case(
        replaced("tokenizer_config.json", POINTER), INVALID, ["tokenizer_config.json", "Git LFS"]
    ),
    "tokenizer is a pointer": Case(replaced("tokenizer.json", POINTER), INVALID, [f"{URI}/tokenizer.json", "LFS"]),
    "tokenizer is empty": Case(replaced("tokenizer.json", b""), INVALID, ["tokenizer.json", "0 bytes"]),
    "tokenizer is a page": Case(replaced("tokenizer.json", PAGE), INVALID, ["tokenizer.json", "web page"]),
    "SentencePiece model is a pointer": Case(replaced("tokenizer.model", POINTER), INVALID, ["tokenizer.model"]),
    "template is a pointer": Case(replaced("chat_template.jinja", POINTER), INVALID, ["chat_template.jinja", "LFS"]),
    "generation_config is broken": Case(replaced("generation_config.json", b"{"), INVALID, ["generation_config.json"]),
    "special_tokens_map is a list": Case(replaced("special_tokens_map.json", b"[]"), INVALID, ["special_tokens_map"]),
    # Kinds of models.
    "no model_type": Case(config(model_type=None), INVALID, [f"{URI}/config.json", "model_type"]),
    "model_type is a number": Case(config(model_type=7), INVALID, ["model_type"]),
    "misspelled": Case(config(model_type="lama"), UNSUPPORTED, ["'lama'", "llama", "transformers 5."]),
    "a newer architecture": Case(config(model_type="qwen9_hyper"), UNSUPPORTED, ["qwen9_hyper", "trainer image"]),
    "code of its own": Case(
        config(model_type="my_model", auto_map={"AutoModelForCausalLM": "modeling_my.MyForCausalLM"}),
        UNSUPPORTED,
        ["auto_map", "trust_remote_code", "my_model"],
    ),
    "encoder": Case(config(model_type="bert"), UNSUPPORTED, ["encoder", "bert"]),
    "seq2seq": Case(config(model_type="t5"), UNSUPPORTED, ["seq2seq", "t5"]),
    "speech": Case(config(model_type="whisper"), UNSUPPORTED, ["seq2seq", "whisper"]),
    "multimodal": Case(config(model_type="qwen2_vl"), UNSUPPORTED, ["multimodal", "qwen2_vl"]),
    "text and vision": Case(config(vision_config={"hidden_size": 8}), UNSUPPORTED, ["multimodal", "vision_config"]),
    "images only": Case(config(model_type="vit"), UNSUPPORTED, ["no language model", "vit"]),
    "encoder-decoder flag": Case(config(is_encoder_decoder=True), UNSUPPORTED, ["is_encoder_decoder"]),
    "classifier": Case(
        config(architectures=["LlamaForSequenceClassification"]), UNSUPPORTED, ["LlamaForSequenceClassification"]
    ),
    "token classifier": Case(config(architectures=["LlamaForTokenClassification"]), UNSUPPORTED, ["token classifier"]),
    "architectures is a text": Case(config(architectures="LlamaForCausalLM"), INVALID, ["architectures"]),
    # Quantized bases.
    **{
        method: Case(config(quantization_config={"quant_method": method}), UNSUPPORTED, ["quantized", method, "qlora"])
        for method in ("bitsandbytes", "gptq", "awq", "fp8", "compressed-tensors", "mxfp4", "hqq", "torchao")
    },
    "quantized text part": Case(
        config(text_config={"quantization_config": {"quant_method": "awq"}}), UNSUPPORTED, ["quantized", "awq"]
    ),
    "compression_config": Case(config(compression_config={"format": "pack"}), UNSUPPORTED, ["compression_config"]),
    "AutoGPTQ's file": Case(replaced("quantize_config.json", b"{}"), UNSUPPORTED, ["quantize_config.json"]),
    "quantized, as .bin": Case(
        both(config(quantization_config={"quant_method": "gptq"}), renamed(WEIGHTS, "pytorch_model.bin")),
        UNSUPPORTED,
        ["gptq"],
    ),
    "GPTQ's tensors": Case(
        with_tensor("model.layers.0.mlp.up_proj.qweight", [8, 8], "I32"), UNSUPPORTED, ["up_proj.qweight"]
    ),
    "bitsandbytes' tensors": Case(
        with_tensor("model.layers.0.mlp.up_proj.weight.absmax", [8], "F32"), UNSUPPORTED, ["absmax"]
    ),
    "packed tensors": Case(with_tensor("a.weight_packed", [8, 8], "I32"), UNSUPPORTED, ["a.weight_packed"]),
    "FP8 weights": Case(with_tensor(UP, [128, 64], "F8_E4M3"), UNSUPPORTED, [UP, "F8_E4M3"]),
    "8-bit weights": Case(with_tensor(UP, [128, 64], "I8"), UNSUPPORTED, [UP, "I8"]),
    # Weights that do not fit config.json.
    "no norm": Case(without_tensor(NORM), MISSING, [NORM]),
    "no head": Case(without_tensor("lm_head.weight"), MISSING, ["lm_head.weight"]),
    "no embedding": Case(without_tensor("model.embed_tokens.weight"), MISSING, ["model.embed_tokens.weight"]),
    "a layer lacks a weight": Case(without_tensor(UP), MISSING, [UP]),
    "a layer is missing": Case(
        config(num_hidden_layers=2), MISSING, ["model.layers.1.input_layernorm.weight", "and 6 more"]
    ),
    "fewer layers than the weights": Case(second_layer, INVALID, ["2 layers", "config.json says 1"]),
    "billions of layers": Case(config(num_hidden_layers=2**31), MISSING, ["model.layers.1."]),
    "another hidden size": Case(config(hidden_size=128), INVALID, ["[258, 64]", "[258, 128]"]),
    "another inner size": Case(config(intermediate_size=96), INVALID, ["mlp.down_proj", "[64, 96]"]),
    "more heads": Case(config(num_attention_heads=4), INVALID, ["self_attn", "[128, 64]"]),
    "fewer key heads": Case(config(num_key_value_heads=1), INVALID, ["k_proj", "[32, 64]"]),
    "a larger vocabulary": Case(config(vocab_size=300), INVALID, ["model.embed_tokens.weight", "[300, 64]"]),
    "a smaller vocabulary": Case(config(vocab_size=100), INVALID, ["model.embed_tokens.weight", "[100, 64]"]),
    "a size is a text": Case(config(hidden_size="64"), INVALID, ["config.json", "hidden_size"]),
    "a size is zero": Case(config(num_hidden_layers=0), INVALID, ["config.json", "num_hidden_layers"]),
    "a size is negative": Case(config(vocab_size=-1), INVALID, ["config.json", "vocab_size"]),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_refused(case: Case, tmp_path: Path) -> None:
    files = tiny_model(tmp_path)
    case.change(files)
    with pytest.raises(BadInput) as raised:
        check(files, tmp_path, **case.training)
    text = str(raised.value)
    assert raised.value.reason == case.reason, text
    for words in [URI, *case.words]:
        assert words in text, text
    assert raised.value.advice.endswith((".", ")")), text
    assert len(text) < 700


SOUND: dict[str, Change] = {
    "as it is": lambda files: None,
    "tied": both(config(tie_word_embeddings=True), without_tensor("lm_head.weight")),
    "tied, with its head": config(tie_word_embeddings=True),
    "tied, with its head only": both(config(tie_word_embeddings=True), without_tensor("model.embed_tokens.weight")),
    "no architectures": config(architectures=None),
    "own code beside transformers'": config(auto_map={"AutoModelForCausalLM": "modeling_llama.LlamaForCausalLM"}),
    "quantization_config is null": replaced("config.json", b""),
    "biases": with_tensor("model.layers.0.self_attn.q_proj.bias", [64]),
    "buffers of older versions": with_tensor("model.layers.0.self_attn.rotary_emb.inv_freq", [16], "F32"),
    "masks of older versions": with_tensor("model.layers.0.attn.bias", [1, 1, 8, 8], "U8"),
    "an empty license": replaced("LICENSE.txt", b""),
    "a further layer for speculation": with_tensor("model.layers.1.eh_proj.weight", [64, 128]),
    "float32": retensored(lambda tensors: [item.update(dtype="F32") for item in tensors.values()]),
    "shards": sharded({"weight_map": {NORM: FIRST, UP: SECOND}}),
    "a second copy": replaced("consolidated.safetensors", b"not read"),
}


@pytest.mark.parametrize("change", SOUND.values(), ids=SOUND)
def test_sound(change: Change, tmp_path: Path) -> None:
    files = tiny_model(tmp_path)
    before = json.loads(files["config.json"])
    change(files)
    if not files["config.json"]:
        files["config.json"] = json.dumps(before | {"quantization_config": None}).encode()
    model = check(files, tmp_path)
    assert model.kind == "decoder"
    assert embedding_rows(model) == 258


def gpt2(prefix: str, positions: int = 64) -> Change:
    """GPT-2 with one layer, named as on the hub (no prefix) or as transformers saves it."""
    hidden = 64
    layer = f"{prefix}h.0."
    tensors = {
        f"{prefix}wte.weight": [258, hidden],
        f"{prefix}wpe.weight": [positions, hidden],
        f"{prefix}ln_f.weight": [hidden],
        f"{prefix}ln_f.bias": [hidden],
        f"{layer}attn.bias": [1, 1, 64, 64],
        f"{layer}attn.c_attn.weight": [hidden, 3 * hidden],
        f"{layer}attn.c_attn.bias": [3 * hidden],
        f"{layer}attn.c_proj.weight": [hidden, hidden],
        f"{layer}attn.c_proj.bias": [hidden],
        f"{layer}mlp.c_fc.weight": [hidden, 4 * hidden],
        f"{layer}mlp.c_fc.bias": [4 * hidden],
        f"{layer}mlp.c_proj.weight": [4 * hidden, hidden],
        f"{layer}mlp.c_proj.bias": [hidden],
        **{f"{layer}ln_{number}.{name}": [hidden] for number in (1, 2) for name in ("weight", "bias")},
    }

    def change(files: Files) -> None:
        files["config.json"] = json.dumps(
            {"model_type": "gpt2", "n_embd": hidden, "n_layer": 1, "n_head": 2, "n_positions": 64, "vocab_size": 258}
        ).encode()
        made = {name: {"dtype": "BF16", "shape": shape} for name, shape in tensors.items()}
        files["model.safetensors"] = laid_out(made)

    return change


@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_gpt2(prefix: str, tmp_path: Path) -> None:
    files = tiny_model(tmp_path)
    gpt2(prefix)(files)
    assert embedding_rows(check(files, tmp_path, maxLength=64)) == 258
    with pytest.raises(BadInput, match=r"maxLength is 65, but .* 64 positions.* at most 64"):
        check(files, tmp_path, maxLength=65)
    without_tensor(f"{prefix}h.0.mlp.c_proj.bias")(files)
    with pytest.raises(BadInput, match=r"lack .*h\.0\.mlp\.c_proj\.bias"):
        check(files, tmp_path)


def test_learned_positions_of_an_unknown_structure(tmp_path: Path) -> None:
    files = tiny_model(tmp_path, model_type="gpt_neo", max_position_embeddings=32)
    check(files, tmp_path)
    with_tensor("transformer.wpe.weight", [32, 64])(files)
    with pytest.raises(BadInput, match="learned 32 positions"):
        check(files, tmp_path)


def test_rotary_positions_are_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = tiny_model(tmp_path, max_position_embeddings=32)
    with caplog.at_level(logging.WARNING):
        check(files, tmp_path, maxLength=64)
    assert "training.maxLength 64 is longer than the 32 positions" in caplog.text


def test_the_table_of_architectures() -> None:
    """What trainer/generate.py has written; tests/integration compares it with transformers."""
    expected = {"llama": "decoder", "bert": "encoder", "t5": "seq2seq", "qwen2_vl": "multimodal", "vit": "other"}
    assert {name: kind_of(name) for name in expected} == expected
    families = ("llama", "qwen2", "qwen3", "qwen3_moe", "mistral", "gemma2", "phi3", "gpt2", "gpt_neox", "olmo2", "opt")
    for name in families:
        structure = structure_of(name)
        assert structure is not None, name
        assert structure.embedding in structure.outer
        assert len(structure.layer) >= 6
    assert len(known_types()) > 500
