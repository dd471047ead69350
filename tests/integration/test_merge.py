"""The merge, tensor by tensor, gives the same values as PEFT's merge in memory, to the bit, for every architecture."""

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from integration.architectures import ARCHITECTURES, write_tiny
from tuneyard_api.contracts.requests import MergeRequest
from tuneyard_api.kinds.training import Lora
from tuneyard_trainer.exporters.merge_worker import merge
from tuneyard_trainer.model.adaptable import FUSED, adaptable_modules, check_target_modules
from tuneyard_trainer.model.layout import INDEX, weight_files
from tuneyard_trainer.model.shape import local_shape
from tuneyard_trainer.runtime.errors import BadInput

Tensors = dict[str, torch.Tensor]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what PEFT says to developers
        yield


def tensors_of(directory: Path) -> Tensors:
    return {name: value for path in directory.glob("*.safetensors") for name, value in load_file(path).items()}


def write_adapter(base: Path, to: Path, **config: Any) -> Path:
    """An adapter with random values."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    options = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | config
    torch.manual_seed(1)
    adapted = get_peft_model(model, LoraConfig(**options))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if parameter.requires_grad:
                scale = 1.0 if "lora_A" in name else 0.02
                parameter.add_(torch.randn_like(parameter) * scale)
    adapted.save_pretrained(to)
    return to


def merged_by_peft(base: Path, adapter: Path, to: Path) -> Tensors:
    """merge_and_unload in float32, rounded once."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    merged = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    merged.to(torch.bfloat16).save_pretrained(to)
    return tensors_of(to)


def merged_by_us(base: Path, adapter: Path, to: Path) -> Tensors:
    merge(MergeRequest(model=base, adapter=adapter, output=to, threads=1))
    return tensors_of(to)


def assert_same(base: Path, folder: Path, **config: Any) -> None:
    original = tensors_of(base)
    adapter = write_adapter(base, folder / "adapter", **config)
    expected = merged_by_peft(base, adapter, folder / "peft")
    found = merged_by_us(base, adapter, folder / "ours")
    assert set(found) == set(expected)
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []
    assert any(not torch.equal(found[name], original[name]) for name in original), "the adapter changed nothing"
    assert list(base.glob("*.safetensors")) == [], "merged shards of the base are removed"


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_every_architecture(model_type: str, tmp_path: Path) -> None:
    assert_same(write_tiny(model_type, tmp_path / "base"), tmp_path)


@pytest.mark.parametrize(
    ("model_type", "config"),
    [
        ("llama", {"use_rslora": True}),
        ("llama", {"use_dora": True}),
        ("llama", {"rank_pattern": {"q_proj": 8}, "alpha_pattern": {"v_proj": 32}}),
        ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens"]}),
        ("qwen2", {"target_modules": ["q_proj", "embed_tokens"]}),
        ("opt", {"lora_bias": True, "target_modules": ["q_proj", "fc1"]}),
        ("gpt2", {"use_dora": True}),
        ("gpt2", {"use_rslora": True, "target_modules": ["c_attn"]}),
        ("phi3", {"use_dora": True, "target_modules": ["qkv_proj", "gate_up_proj"]}),
        ("qwen3_moe", {"use_rslora": True, "target_modules": ["gate_proj", "up_proj", "down_proj"]}),
        ("mixtral", {"target_modules": ["q_proj", "w2"]}),
    ],
)
def test_every_kind_of_adapter(model_type: str, config: dict[str, Any], tmp_path: Path) -> None:
    assert_same(write_tiny(model_type, tmp_path / "base"), tmp_path, **config)


def test_shards(tmp_path: Path) -> None:
    """An expert's tensors lie in several files, and a file holds several experts."""
    base = write_tiny("qwen3_moe", tmp_path / "base", max_shard_size="60KB")
    shards = weight_files(base)
    assert len(shards) > 2
    assert_same(base, tmp_path)
    assert weight_files(tmp_path / "ours") == shards
    index = json.loads((tmp_path / "ours" / INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors_of(tmp_path / "ours").values())


def test_names_without_the_models_prefix(tmp_path: Path) -> None:
    """As the files of GPT-2 on the hub are."""
    base = write_tiny("gpt2", tmp_path / "base")
    bare = {name.removeprefix("transformer."): value for name, value in tensors_of(base).items()}
    save_file(bare, base / "model.safetensors", metadata={"format": "pt"})
    adapter = write_adapter(base, tmp_path / "adapter")
    expected = merged_by_peft(base, adapter, tmp_path / "peft")
    found = merged_by_us(base, adapter, tmp_path / "ours")
    assert set(found) == set(bare)
    for name, value in found.items():
        assert torch.equal(value, expected[f"transformer.{name}"]), name


def test_a_saved_head_is_no_longer_tied(tmp_path: Path) -> None:
    base = write_tiny("llama", tmp_path / "base", tie_word_embeddings=True)
    assert "lm_head.weight" not in tensors_of(base)
    adapter = write_adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    saved = load_file(adapter / "adapter_model.safetensors")
    head = torch.randn(512, 64)
    save_file(saved | {"base_model.model.lm_head.weight": head}, adapter / "adapter_model.safetensors")
    config = json.loads((adapter / "adapter_config.json").read_text()) | {"modules_to_save": ["lm_head"]}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    found = merged_by_us(base, adapter, tmp_path / "ours")
    assert torch.equal(found["lm_head.weight"], head.to(torch.bfloat16))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert torch.equal(loaded.lm_head.weight, head.to(torch.bfloat16))
    assert not torch.equal(loaded.model.embed_tokens.weight, loaded.lm_head.weight)


def test_files_of_another_layout_are_refused(tmp_path: Path) -> None:
    base = write_tiny("llama", tmp_path / "base")
    adapter = write_adapter(base, tmp_path / "adapter")
    renamed = {name.replace("q_proj", "wq"): value for name, value in tensors_of(base).items()}
    save_file(renamed, base / "model.safetensors")
    with pytest.raises(BadInput, match=r"model\.layers\.0\.self_attn\.q_proj\.weight"):
        merged_by_us(base, adapter, tmp_path / "ours")


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_adaptable_modules_are_what_peft_adapts(model_type: str, tmp_path: Path) -> None:
    """Each name that prepare would accept alone makes an adapter, and all of them are what all-linear stands for."""
    base = write_tiny(model_type, tmp_path / "base")
    shape = local_shape(base, weight_files(base))
    names = {name for name, why in adaptable_modules(shape).items() if why is None}
    adapter = write_adapter(base, tmp_path / "adapter")
    config = json.loads((adapter / "adapter_config.json").read_text())
    by_peft = {name.rsplit(".", 1)[-1] for name in config["target_modules"]}
    if config["target_parameters"]:
        assert model_type in FUSED
        by_peft |= {name for name in adaptable_modules(shape) if name in _expert_names(shape.tensors)}
    assert names == by_peft - {"layer"}  # the router of GraniteMoe is a linear layer of this name


def _expert_names(tensors: Any) -> set[str]:
    return {name.rsplit(".", 2)[-2] for name in tensors if ".experts." in name}


def test_mixtures_are_adapted_without_dropout(tmp_path: Path) -> None:
    base = write_tiny("qwen3_moe", tmp_path / "base")
    with pytest.raises(ValueError, match="dropout"):
        write_adapter(base, tmp_path / "adapter", lora_dropout=0.1)
    with pytest.raises(BadInput, match="dropout"):
        check_target_modules(Lora(dropout=0.1), local_shape(base, weight_files(base)), "s3://models/a")
