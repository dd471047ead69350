"""The worker that quantizes a model directory with llmcompressor, in the quantizer's environment."""

import json
import re
from collections.abc import Callable
from typing import Any

import torch
from datasets import Dataset
from llmcompressor import oneshot
from loguru import logger
from transformers import AutoModelForCausalLM

from tuneyard_api.contracts.requests import ItemsDone, QuantizeOutcome, QuantizeRequest
from tuneyard_trainer.exporters import format_of
from tuneyard_trainer.model.layout import copy_config_files, weight_files
from tuneyard_trainer.model.shape import local_shape
from tuneyard_trainer.runtime.worker_main import emit, worker_main


def quantize(request: QuantizeRequest) -> QuantizeOutcome:
    torch.manual_seed(0)
    torch.set_num_threads(request.threads or torch.get_num_threads())
    source, output = request.model, request.output
    rows = [row[: request.max_length] for row in json.loads(request.rows.read_text())]
    recipe = format_of(request.format).recipe
    if recipe is None:
        raise ValueError(f"the format {request.format} has no recipe for llmcompressor")
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16, local_files_only=True)
    logger.add(layer_counter(len(quantized_layers(model))), level="INFO", format="{message}")
    oneshot(
        model=model,
        recipe=recipe(local_shape(source, weight_files(source))),
        dataset=Dataset.from_list([{"input_ids": row, "attention_mask": [1] * len(row)} for row in rows]),
        max_seq_length=request.max_length,
        num_calibration_samples=len(rows),
        shuffle_calibration_samples=False,
        # One pass over the layers for all modifiers together.
        pipeline="sequential",
    )
    model.save_pretrained(output, save_compressed=True)
    # config.json has the quantization; recipe.yaml would repeat it.
    (output / "recipe.yaml").unlink(missing_ok=True)
    copy_config_files(source, output, but=("config.json",))
    return QuantizeOutcome()


def quantized_layers(model: torch.nn.Module) -> list[Any]:
    """The linear layers, without the head."""
    layers = (module for name, module in model.named_modules() if name != "lm_head")
    return [layer for layer in layers if isinstance(layer, torch.nn.Linear)]


def layer_counter(total: int) -> Callable[[str], None]:
    """Turns llmcompressor's log into progress; with another wording there is no progress, and no error."""
    done = 0

    def on_message(message: str) -> None:
        nonlocal done
        if found := re.search(r"Quantizing (\d+) module", message):
            done += int(found[1])
            emit(ItemsDone(done=done, total=total))

    return on_message


if __name__ == "__main__":
    worker_main(QuantizeRequest, quantize)
