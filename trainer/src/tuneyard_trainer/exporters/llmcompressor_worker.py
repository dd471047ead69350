"""The worker that quantizes a model directory with llmcompressor, in the quantizer's environment.

It makes all formats of a job, and compares each with the model that it was made of.
"""

import json
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from llmcompressor import oneshot
from llmcompressor.pipelines.cache import IntermediatesCache
from loguru import logger
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM

from tuneyard_api import reasons
from tuneyard_api.contracts.requests import ItemsDone, QuantizeOutcome, QuantizeRequest
from tuneyard_api.kinds.finetunejob_status import Fidelity
from tuneyard_trainer.exporters import fidelity, format_of
from tuneyard_trainer.exporters.base import Recipe
from tuneyard_trainer.exporters.logits import Reference
from tuneyard_trainer.model.layout import copy_config_files, weight_files
from tuneyard_trainer.model.shape import kind, local_shape
from tuneyard_trainer.runtime.errors import blamed_on
from tuneyard_trainer.runtime.worker_main import emit, worker_main
from tuneyard_trainer.weights.precision import fast_products


def quantize(request: QuantizeRequest) -> QuantizeOutcome:
    """Writes each format into a directory of its name.

    Raises:
        BadInput: an artifact does not compute what the model does.
    """
    torch.manual_seed(0)
    torch.set_num_threads(request.threads or torch.get_num_threads())
    torch.backends.cuda.enable_cudnn_sdp(False)  # cuDNN builds a plan for each new length of a row
    if not torch.cuda.is_available():
        # AWQ pins its caches for faster copies to a GPU, which fails where there is none.
        IntermediatesCache.pin_memory = lambda self, *_: None
    rows = [row[: request.max_length] for row in json.loads(request.rows.read_text())]
    reference = Reference(rows, request.output / "logits")
    found: dict[str, Fidelity] = {}
    with fast_products():
        reference.write(load(request.model))
        for number, name in enumerate(request.formats):
            progress = partial(format_progress, name, number, len(request.formats))
            found[name] = make(name, request, rows, reference, progress)
    shutil.rmtree(request.output / "logits")
    return QuantizeOutcome(fidelity=found)


def make(
    name: str, request: QuantizeRequest, rows: list[list[int]], reference: Reference, progress: Callable[[float], None]
) -> Fidelity:
    """Writes one format and compares it with plain rounding and with the model itself."""
    progress(0)
    source, output = request.model, request.output / name
    model = load(source)
    ignored = [layer for layer, _ in linear_layers(model) if kind(layer) != "linear"]
    recipe = recipe_of(name, source, ignored)
    nearest = None
    if recipe.nearest:
        oneshot(model=model, recipe=recipe.nearest)
        nearest = reference.compare(model).logits_error
        model = load(source)
    listener = logger.add(layer_counter(len(linear_layers(model)) - len(ignored), progress), format="{message}")
    apply(recipe, model, rows)
    logger.remove(listener)
    model.save_pretrained(output, save_compressed=True)
    del model
    # config.json has the quantization; recipe.yaml would repeat it.
    (output / "recipe.yaml").unlink(missing_ok=True)
    copy_config_files(source, output, but=("config.json",))
    found = reference.compare(read_back(name, output))
    fidelity.check(name, found, nearest)
    return found


def load(directory: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.bfloat16, local_files_only=True)


def read_back(name: str, directory: Path) -> Any:
    """The artifact as those read it who download it.

    Raises:
        BadInput: transformers cannot read it.
    """
    what = f"transformers cannot read what {name} makes of this model"
    with blamed_on(what, reasons.QUANTIZATION_DIVERGED, f"Remove {name} from export.formats."):
        return AutoModelForCausalLM.from_pretrained(directory, dtype="auto", local_files_only=True)


def recipe_of(name: str, source: Path, ignored: list[str]) -> Recipe:
    recipe = format_of(name).recipe
    if recipe is None:
        raise ValueError(f"the format {name} has no recipe for llmcompressor")
    return recipe(local_shape(source, weight_files(source)), ignored)


def apply(recipe: Recipe, model: Any, rows: list[list[int]]) -> None:
    """Quantizes the model in memory."""
    if recipe.dtype:
        model.to(getattr(torch, recipe.dtype))
    if not recipe.modifiers:
        return
    if recipe.nearest is None:  # without calibration
        oneshot(model=model, recipe=recipe.modifiers)
        return
    batches = [{"input_ids": torch.tensor([row]), "attention_mask": torch.ones(1, len(row))} for row in rows]
    oneshot(
        model=model,
        recipe=recipe.modifiers,
        dataset=DataLoader(batches, batch_size=None),
        processor=object(),  # the rows are tokens already, so no tokenizer is loaded
        num_calibration_samples=len(rows),
        # One pass over the layers for all modifiers together.
        pipeline="sequential",
    )


def linear_layers(model: torch.nn.Module) -> list[tuple[str, torch.nn.Module]]:
    return [(name, module) for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]


def format_progress(name: str, number: int, formats: int, share: float) -> None:
    """Reports how much of all formats is done."""
    emit(ItemsDone(done=round(100 * (number + share)), total=100 * formats, item=name))


def layer_counter(total: int, progress: Callable[[float], None]) -> Callable[[str], None]:
    """Turns llmcompressor's log into progress; with another wording there is no progress, and no error."""
    done = 0

    def on_message(message: str) -> None:
        nonlocal done
        if found := re.search(r"Quantizing (\d+) module", message):
            done += int(found[1])
            progress(min(1.0, done / total))

    return on_message


if __name__ == "__main__":
    worker_main(QuantizeRequest, quantize)
