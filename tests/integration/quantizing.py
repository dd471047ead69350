"""Makes formats of tiny models in the quantizer's environment: one process, as its imports take seconds.

`python -m integration.quantizing CASES` prints a line of JSON for each case of the file CASES, among others.
"""

import json
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
from loguru import logger
from transformers import AutoModelForCausalLM

from tuneyard_api.contracts.requests import QuantizeRequest
from tuneyard_trainer.exporters import llmcompressor_worker, smoothing
from tuneyard_trainer.exporters.logits import Reference
from tuneyard_trainer.model.shape import kind
from tuneyard_trainer.runtime.errors import StageError
from tuneyard_trainer.weights.precision import fast_products


def made(case: dict[str, Any]) -> dict[str, Any]:
    """What became of one format of one model; `pairs` replaces what is known of an architecture."""
    model, name = Path(case["model"]), case["format"]
    if case["pairs"]:
        smoothing.PAIRS[case["pairs"][0]] = smoothing.PAIRS[case["pairs"][1]]
    output = Path(case["output"])
    request = QuantizeRequest(
        model=model, formats=[name], rows=Path(case["rows"]), max_length=64, output=output, threads=1
    )
    try:
        outcome = llmcompressor_worker.quantize(request)
    except StageError as error:
        return {"reason": error.reason, "message": error.message}
    except Exception:
        return {"reason": "crashed", "message": traceback.format_exc()[-2000:]}
    rows = json.loads(request.rows.read_text())
    reference = Reference(rows, output / "again")
    with fast_products():  # as the worker computes, which rounds otherwise than PyTorch's own products
        reference.write(load(model))
        return {
            "reason": "made",
            "told": outcome.fidelity[name].wire(),
            "error": reference.compare(load(output / name)).logits_error,
            "nearest": reference.compare(rounded(load(model), name)).logits_error,
            "files": sorted(path.name for path in (output / name).iterdir()),
        }


def load(directory: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(directory, dtype="auto")


def rounded(model: Any, name: str) -> Any:
    """The model with its linear layers rounded to the nearest values of a format's width."""
    for layer, module in model.named_modules():
        if name == "fp16" or not isinstance(module, torch.nn.Linear) or kind(layer) != "linear":
            continue
        module.weight.data = WEIGHTS[name](module.weight.data.float()).to(torch.bfloat16)
        if name in ACTIVATIONS:
            module.register_forward_pre_hook(lambda _, args, round_=ACTIVATIONS[name]: (round_(args[0]), *args[1:]))
    return model.to(torch.float16) if name == "fp16" else model


def integers(values: torch.Tensor, bits: int) -> torch.Tensor:
    """Symmetric integers with a scale for each row."""
    scale = values.abs().amax(-1, keepdim=True).clamp(min=1e-9) / (2 ** (bits - 1) - 0.5)
    return (values / scale).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) * scale


def asymmetric(values: torch.Tensor) -> torch.Tensor:
    """4-bit integers with a scale and a zero point for each row."""
    low, high = values.amin(-1, keepdim=True).clamp(max=0), values.amax(-1, keepdim=True).clamp(min=0)
    scale = (high - low).clamp(min=1e-9) / 15
    zero = (-low / scale).round()
    return ((values / scale + zero).round().clamp(0, 15) - zero) * scale


def grouped(weight: torch.Tensor, round_: Any) -> torch.Tensor:
    size = next(size for size in (128, 64, 32) if weight.shape[1] % size == 0)
    return round_(weight.reshape(weight.shape[0], -1, size)).reshape(weight.shape)


def floats(values: torch.Tensor) -> torch.Tensor:
    """E4M3 with a scale for each row."""
    scale = values.abs().amax(-1, keepdim=True).clamp(min=1e-9) / 448
    return (values / scale).to(torch.float8_e4m3fn).to(values.dtype) * scale


WEIGHTS: dict[str, Any] = {
    "int8": lambda weight: integers(weight, 8),
    "fp8": floats,
    "gptq": lambda weight: grouped(weight, lambda group: integers(group, 4)),
    "awq": lambda weight: grouped(weight, asymmetric),
}
ACTIVATIONS: dict[str, Any] = {"int8": lambda values: integers(values, 8), "fp8": floats}


if __name__ == "__main__":
    logger.remove()
    for case in json.loads(Path(sys.argv[1]).read_text()):
        sys.stdout.write(f"\n{json.dumps(case | made(case))}\n")
        sys.stdout.flush()
