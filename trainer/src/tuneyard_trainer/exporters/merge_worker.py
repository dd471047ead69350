"""The worker that merges an adapter into its base model, one shard at a time.

W' = W + scale * B A (Hu et al. 2021, arXiv:2106.09685), computed in float32 and rounded once, to bfloat16. The base is
the one in full precision also after QLoRA: merging into NF4 weights would keep their error. Memory: two shards. Disk:
the merged model and the shards of the base that are not merged yet.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tuneyard_api import reasons
from tuneyard_api.contracts.requests import ItemsDone, MergeOutcome, MergeRequest
from tuneyard_trainer.model.layout import INDEX, copy_config_files, weight_files
from tuneyard_trainer.runtime.errors import BadInput
from tuneyard_trainer.runtime.worker_main import emit, worker_main

PREFIX = "base_model.model."


class Delta(NamedTuple):
    """What the adapter adds to one weight: scale * b @ a."""

    a: torch.Tensor  # [rank, in]
    b: torch.Tensor  # [out, rank]
    scale: float

    def added_to(self, weight: torch.Tensor) -> torch.Tensor:
        """The merged weight [out, in] in float32."""
        return weight.to(torch.float32) + self.scale * (self.b.to(torch.float32) @ self.a.to(torch.float32))


def merge(request: MergeRequest) -> MergeOutcome:
    """Writes the merged model in bfloat16."""
    torch.set_num_threads(request.threads or torch.get_num_threads())
    base, output = request.model, request.output
    copy_config_files(base, output)
    write_config(output)
    shards = weight_files(base)
    deltas = read_adapter(request.adapter)
    check_complete(deltas, base, shards)
    placed: dict[str, str] = {}
    size = 0
    for number, shard in enumerate(shards, start=1):
        tensors = merge_shard(load_file(base / shard), deltas)
        save_file(tensors, output / shard, metadata={"format": "pt"})
        (base / shard).unlink()
        placed |= dict.fromkeys(tensors, shard)
        size += sum(tensor.nbytes for tensor in tensors.values())
        emit(ItemsDone(done=number, total=len(shards), item=shard))
    if len(shards) > 1:
        index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(placed.items()))}
        (output / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    return MergeOutcome(merged=len(deltas))


def read_adapter(directory: Path) -> dict[str, Delta]:
    """The adapter's deltas by the name of the weight that they change."""
    config: dict[str, Any] = json.loads((directory / "adapter_config.json").read_text())
    rank, alpha = config["r"], config["lora_alpha"]
    scale = alpha / math.sqrt(rank) if config["use_rslora"] else alpha / rank
    tensors = load_file(directory / "adapter_model.safetensors")
    modules = {name.split(".lora_")[0] for name in tensors}
    return {
        f"{module.removeprefix(PREFIX)}.weight": Delta(
            tensors[f"{module}.lora_A.weight"], tensors[f"{module}.lora_B.weight"], scale
        )
        for module in modules
    }


def check_complete(deltas: Mapping[str, Delta], base: Path, shards: list[str]) -> None:
    """Raises BadInput when the base lacks a weight that the adapter changes."""
    names: set[str] = set()
    for shard in shards:
        with safe_open(base / shard, framework="pt") as file:
            names |= set(file.keys())
    if missing := sorted(set(deltas) - names):
        raise BadInput(
            reasons.INVALID_SPEC,
            f"The base model's files have no weight {missing[0]} ({len(missing)} of {len(deltas)} adapted weights are "
            "missing), so the adapter cannot be merged shard by shard",
            "Save the model again with transformers' save_pretrained and use that as spec.model.uri.",
        )


def merge_shard(tensors: Mapping[str, torch.Tensor], deltas: Mapping[str, Delta]) -> dict[str, torch.Tensor]:
    """The shard's tensors with the adapter added; all floating-point tensors in bfloat16."""

    def merged(name: str, tensor: torch.Tensor) -> torch.Tensor:
        tensor = deltas[name].added_to(tensor) if name in deltas else tensor
        return tensor.to(torch.bfloat16).contiguous() if tensor.is_floating_point() else tensor

    return {name: merged(name, tensor) for name, tensor in tensors.items()}


def write_config(directory: Path) -> None:
    """config.json of the merged model: bfloat16, and no name from the machine that made the base."""
    path = directory / "config.json"
    config = json.loads(path.read_text()) | {"dtype": "bfloat16"}
    dropped = ("torch_dtype", "_name_or_path", "_model_name_or_path")
    path.write_text(json.dumps({key: value for key, value in config.items() if key not in dropped}, indent=2) + "\n")


if __name__ == "__main__":
    worker_main(MergeRequest, merge)
