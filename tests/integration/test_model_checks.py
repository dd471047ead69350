"""What transformers saves passes prepare's checks; the same without one tensor does not."""

import json
import shutil
from pathlib import Path

import pytest
import transformers
from safetensors.torch import load_file, save_file
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from integration.architectures import ARCHITECTURES, write_tiny
from support.memorystore import MemoryStore
from tuneyard_api.kinds.training import Training
from tuneyard_trainer.model.architectures import kind_of, known_types, structure_of, transformers_version
from tuneyard_trainer.model.base import BaseModel
from tuneyard_trainer.model.check import check_model
from tuneyard_trainer.model.checks.vocabulary import embedding_rows
from tuneyard_trainer.runtime.errors import BadInput

URI = "s3://models/tiny"
WEIGHTS = "model.safetensors"
# Families whose layers differ, so that a missing tensor is not noticed before transformers loads the model.
UNKNOWN = {name for name in ARCHITECTURES if structure_of(name) is None}


def check(directory: Path, to: Path, max_length: int = 64) -> BaseModel:
    store = MemoryStore()
    for path in directory.iterdir():
        store.objects[f"{URI}/{path.name}"] = path.read_bytes()
    return check_model(store, URI, to / "fetched", Training(max_length=max_length))


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_what_transformers_saves_is_sound(model_type: str, tmp_path: Path) -> None:
    model = check(write_tiny(model_type, tmp_path / "model"), tmp_path)
    assert model.kind == "decoder"
    assert embedding_rows(model) in (None, 512)
    sharded = write_tiny(model_type, tmp_path / "sharded", max_shard_size="60KB")
    assert len(list(sharded.glob("*.safetensors"))) > 1
    assert check(sharded, tmp_path / "again").tensors.keys() == model.tensors.keys()


@pytest.mark.parametrize("model_type", sorted(ARCHITECTURES.keys() - UNKNOWN))
def test_a_missing_tensor_is_noticed(model_type: str, tmp_path: Path) -> None:
    """Each of the second layer, one after the other."""
    directory = write_tiny(model_type, tmp_path / "model")
    tensors = load_file(directory / WEIGHTS)
    second = [name for name in tensors if ".1." in name and "experts" not in name]
    assert len(second) > 3
    for number, name in enumerate(second):
        save_file({other: value for other, value in tensors.items() if other != name}, directory / WEIGHTS)
        with pytest.raises(BadInput, match=name.replace(".", r"\.")):
            check(directory, tmp_path / str(number))


@pytest.mark.parametrize("model_type", sorted(ARCHITECTURES.keys() - UNKNOWN))
def test_another_vocabulary_is_noticed(model_type: str, tmp_path: Path) -> None:
    directory = write_tiny(model_type, tmp_path / "model")
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"vocab_size": 600}))
    with pytest.raises(BadInput, match=r"\[512.*, but config\.json asks for \[600"):
        check(directory, tmp_path)


def test_gpt2_as_on_the_hub(tmp_path: Path) -> None:
    """Without the prefix, as it was saved in 2019."""
    directory = write_tiny("gpt2", tmp_path / "model")
    tensors = {name.removeprefix("transformer."): value for name, value in load_file(directory / WEIGHTS).items()}
    tensors.pop("lm_head.weight", None)
    save_file(tensors, directory / WEIGHTS)
    assert "h.0.attn.c_attn.weight" in check(directory, tmp_path).tensors
    with pytest.raises(BadInput, match="128 positions"):
        check(directory, tmp_path / "long", max_length=129)


def test_pythia_as_on_the_hub(tmp_path: Path) -> None:
    """Its head is embed_out there, and buffers were saved with the weights."""
    directory = write_tiny("gpt_neox", tmp_path / "model")
    tensors = load_file(directory / WEIGHTS)
    head = next(name for name in tensors if name in ("embed_out.weight", "lm_head.weight"))
    tensors["embed_out.weight"] = tensors.pop(head)
    tensors["gpt_neox.layers.0.attention.rotary_emb.inv_freq"] = tensors["gpt_neox.final_layer_norm.bias"][:8].clone()
    save_file(tensors, directory / WEIGHTS)
    assert check(directory, tmp_path).kind == "decoder"


def test_sound_model_that_was_copied_elsewhere(tmp_path: Path) -> None:
    """What people leave beside a model does not matter."""
    directory = write_tiny("llama", tmp_path / "model")
    shutil.copyfile(directory / WEIGHTS, directory / "consolidated.safetensors")
    (directory / "LICENSE.txt").write_text("")
    assert check(directory, tmp_path).kind == "decoder"


def test_the_table_is_that_of_this_transformers() -> None:
    """Run trainer/generate.py after an update of transformers."""
    assert transformers_version() == transformers.__version__
    assert set(known_types()) == set(CONFIG_MAPPING_NAMES)
    causal = set(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    assert {name for name in known_types() if kind_of(name) == "decoder"} <= causal
