"""The merge of an adapter into its base model, as the export stage does it; on the CPU, with or without a GPU."""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file

from gpu.shapes import skeleton
from gpu.training import RANK, started
from tuneyard_api.contracts.requests import MergeRequest
from tuneyard_trainer.exporters.merge import WORKER
from tuneyard_trainer.model.layout import SINGLE


def make_adapter(directory: Path, shape: str) -> Path:
    """A random LoRA of all linear layers."""
    _, model = skeleton(shape)
    config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM")
    names = get_peft_model_state_dict(get_peft_model(model, config))
    directory.mkdir(parents=True)
    config.save_pretrained(directory)
    torch.manual_seed(0)
    tensors = {name: torch.randn(tensor.shape) * 0.01 for name, tensor in names.items()}
    save_file(tensors, directory / "adapter_model.safetensors")
    return directory


def merge(folder: Path, model: Path, shape: str) -> dict[str, Any]:
    """Its time, and how much of the base model it reads a second. The base model is gone afterwards."""
    size = (model / SINGLE).stat().st_size
    output = folder / "merged"
    output.mkdir(parents=True)
    request = MergeRequest(model=model, adapter=make_adapter(folder / "adapter", shape), output=output)
    path = folder / "request.json"
    path.write_text(request.model_dump_json(by_alias=True))
    done = started(WORKER.module, str(path))
    return {
        "modelGB": round(size / 1e9, 3),
        "seconds": done.seconds,
        "gbPerSecond": round(size / 1e9 / done.seconds, 3),
        "error": (done.output + done.error)[-2000:] if done.error is not None else None,
    }
