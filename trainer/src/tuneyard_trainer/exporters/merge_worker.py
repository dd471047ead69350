"""The worker that merges an adapter into its base model, one tensor at a time.

W' = W + scale * B A (Hu et al. 2021, arXiv:2106.09685), computed in float32 and rounded once, to bfloat16. The base is
the one in full precision also after QLoRA: merging into NF4 weights would keep their error. Memory: the largest tensor
and its change, in float32. Disk: the merged model and the shards of the base that are not merged yet.
"""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import torch
import transformers

from tuneyard_api.contracts.requests import ItemsDone, MergeOutcome, MergeRequest
from tuneyard_trainer.exporters.adapter import Adapter, Change
from tuneyard_trainer.exporters.adapter_config import read_adapter_config
from tuneyard_trainer.model.layout import INDEX, copy_config_files, declare_bfloat16, weight_files
from tuneyard_trainer.model.shape import local_shape
from tuneyard_trainer.runtime.worker_main import emit, worker_main
from tuneyard_trainer.weights.tensor_files import TensorReader, TensorWriter, layout

BFLOAT16: Final = "BF16"


def merge(request: MergeRequest) -> MergeOutcome:
    """Writes the merged model in bfloat16.

    Raises:
        BadInput: the adapter's configuration is broken, or the adapter does not fit the base model's files.
    """
    torch.set_num_threads(request.threads or torch.get_num_threads())
    transformers.logging.set_verbosity_error()
    base, output = request.model, request.output
    copy_config_files(base, output)
    declare_bfloat16(output)
    shards = weight_files(base)
    adapter = read_adapter(base, request.adapter, shards) if request.adapter else NoAdapter()
    placed: dict[str, str] = {}
    size = 0
    with torch.inference_mode():
        for number, shard in enumerate(shards, start=1):
            added = adapter.added if number == len(shards) else {}
            written = merge_shard(base / shard, output / shard, adapter, added)
            (base / shard).unlink()
            placed |= dict.fromkeys(written.names, shard)
            size += written.size_bytes
            emit(ItemsDone(done=number, total=len(shards), item=shard))
    if adapter.added:
        untie(output)
    if len(shards) > 1:
        index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(placed.items()))}
        (output / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    return MergeOutcome(merged=adapter.parameters)


class NoAdapter:
    """Changes nothing."""

    changes: Mapping[str, Change] = {}
    added: Mapping[str, torch.Tensor] = {}
    parameters = 0


def read_adapter(base: Path, directory: Path, shards: list[str]) -> Adapter:
    read_adapter_config(directory, str(directory))
    return Adapter(base, directory, local_shape(base, shards).tensors)


def merge_shard(
    source: Path, to: Path, adapter: Adapter | NoAdapter, added: Mapping[str, torch.Tensor]
) -> TensorWriter:
    """Writes a shard with the adapter added, and with tensors that the base does not have.

    All floating-point tensors become bfloat16.
    """
    with ExitStack() as stack:
        reader = stack.enter_context(TensorReader(source))
        tensors = layout(reader.header, BFLOAT16) | {name: (BFLOAT16, tuple(new.shape)) for name, new in added.items()}
        writer = stack.enter_context(TensorWriter(to, tensors))
        for name in reader.header.tensors:
            tensor = reader.read(name)
            if change := adapter.changes.get(name):
                tensor = change(tensor.to(torch.float32))
            writer.write(name, rounded(tensor))
        for name, tensor in added.items():
            writer.write(name, rounded(tensor))
    return writer


def rounded(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor


def untie(directory: Path) -> None:
    """The head is no longer the embedding, as the adapter has brought its own."""
    path = directory / "config.json"
    config = json.loads(path.read_text()) | {"tie_word_embeddings": False}
    path.write_text(json.dumps(config, indent=2) + "\n")


if __name__ == "__main__":
    worker_main(MergeRequest, merge)
