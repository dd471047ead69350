"""Memory and time of merging an adapter, beside PEFT's merge in memory: python -m bench.merging FOLDER

Run it in the trainer image, as its environment has torch. The model is one file of random values in the shapes of
Llama 2 7B, with fewer layers.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig

from tuneyard_trainer.exporters.tensor_files import TensorReader, TensorWriter

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


class Measured(NamedTuple):
    """One run of a program."""

    wall_seconds: float
    cpu_seconds: float
    peak_mib: float


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
    """Runs a program in a process of its own."""
    started = time.monotonic()
    code = program.replace("FOLDER", repr(str(folder)))
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", code], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"a program ended with status {status}")
    return Measured(time.monotonic() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


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
    parser.add_argument("--alone", action="store_true", help="Leave PEFT out, which holds the whole model in memory.")
    given = parser.parse_args()
    folder: Path = given.folder
    make_model(folder, given.layers)
    (folder / "copy").mkdir()
    for path in (folder / "base").iterdir():
        (folder / "copy" / path.name).hardlink_to(path)  # the merge removes the shards that it has merged
    size = (folder / "base" / "model.safetensors").stat().st_size
    report: dict[str, Any] = {"bytes": size, "ours": measure(OURS, folder)._asdict()}
    if not given.alone:
        report |= {"peft": measure(PEFT, folder)._asdict(), "different": list(differences(folder))}
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
