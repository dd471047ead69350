"""Memory and time of merging an adapter, beside PEFT's merge in memory: python -m bench.merging FOLDER

Run it in the trainer image, as its environment has torch. The model is one file of random values in the shapes of
Llama 2 7B, with fewer layers.
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig

from bench.measured import Measured, medians, run
from tuneyard_trainer.weights.tensor_files import TensorReader, TensorWriter

LAYERS: Final = 11  # 5.0 GB
WIDTHS: Final = {"hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32, "vocab_size": 32000}
RANK: Final = 16

OURS: Final = """
from pathlib import Path
from tuneyard_api.contracts.requests import MergeRequest
from tuneyard_trainer.exporters.merge_worker import merge
folder = Path(FOLDER)
merge(MergeRequest(model=folder / "copy", adapter=folder / "adapter", output=folder / "ours", threads=2))
"""
PEFT: Final = """
import torch
from pathlib import Path
from peft import PeftModel
from transformers import AutoModelForCausalLM
folder = Path(FOLDER)
torch.set_num_threads(2)
model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.bfloat16)
merged = PeftModel.from_pretrained(model, folder / "adapter").merge_and_unload()
merged.save_pretrained(folder / "peft", max_shard_size="100GB")
"""


def make_model(folder: Path, layers: int) -> None:
    """Writes the base model tensor by tensor, and an adapter on all its linear layers."""
    config = LlamaConfig(**WIDTHS, num_hidden_layers=layers, architectures=["LlamaForCausalLM"], dtype="bfloat16")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    (folder / "base").mkdir(parents=True)
    config.save_pretrained(folder / "base")
    shapes = {name: ("BF16", tuple(tensor.shape)) for name, tensor in model.state_dict().items()}
    torch.manual_seed(0)
    with TensorWriter(folder / "base" / "model.safetensors", shapes) as writer:
        for name, (_, shape) in shapes.items():
            writer.write(name, torch.randn(shape, dtype=torch.bfloat16) * 0.02)
    adapted = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear"))
    for name, parameter in list(adapted.named_parameters()):
        if ".lora_" in name:
            module, _, leaf = name.rpartition(".")
            values = torch.nn.Parameter(torch.randn(parameter.shape) * 0.02)
            adapted.get_submodule(module).register_parameter(leaf, values)
    adapted.save_pretrained(folder / "adapter")


def measure(program: str, folder: Path) -> Measured:
    return run([sys.executable, "-W", "ignore", "-c", program.replace("FOLDER", repr(str(folder)))])


def measure_all(folder: Path, rounds: int, programs: dict[str, str]) -> dict[str, Measured]:
    """The medians of each program, in another order each round: the first one reads the model from the disk."""
    found: dict[str, list[Measured]] = {name: [] for name in programs}
    for number in range(rounds):
        for name in list(programs)[:: -1 if number % 2 else 1]:
            for old in ("copy", name):
                shutil.rmtree(folder / old, ignore_errors=True)
            (folder / "copy").mkdir()
            for path in (folder / "base").iterdir():
                (folder / "copy" / path.name).hardlink_to(path)  # the merge removes the shards that it has merged
            found[name].append(measure(programs[name], folder))
            print(name, found[name][-1], f"load {os.getloadavg()[0]:.1f}", file=sys.stderr)
    return {name: medians(runs) for name, runs in found.items()}


def differences(folder: Path) -> Iterator[str]:
    """The names of the tensors whose bits differ."""
    with (
        TensorReader(folder / "ours" / "model.safetensors") as ours,
        TensorReader(folder / "peft" / "model.safetensors") as peft,
    ):
        for name in ours.header.tensors:
            if not torch.equal(ours.read(name), peft.read(name)):
                yield name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="An empty directory with room for four times the model.")
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--alone", action="store_true", help="Leave PEFT out, which holds the whole model in memory.")
    given = parser.parse_args()
    folder: Path = given.folder
    make_model(folder, given.layers)
    programs = {"ours": OURS} if given.alone else {"ours": OURS, "peft": PEFT}
    found = measure_all(folder, given.rounds, programs)
    report: dict[str, Any] = {"bytes": (folder / "base" / "model.safetensors").stat().st_size}
    report |= {name: middle._asdict() for name, middle in found.items()}
    if not given.alone:
        report["different"] = list(differences(folder))
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
