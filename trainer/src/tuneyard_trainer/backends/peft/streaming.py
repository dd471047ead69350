"""A base model whose frozen weights are on the disk: a module of a decoder layer has its own in memory as it computes.

With gradient checkpointing a layer computes twice in a step: forward, and once more before its backward pass, whose
graph holds the weights until it is done. Each time they are read anew, so that one layer's weights are in memory,
whatever the model's size; while a GPU computes, those of the next layer are read into the host's. QLoRA's are quantized
once, layer by layer, and read in 4 bits.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from accelerate import init_empty_weights
from bitsandbytes.nn import Linear4bit, Params4bit
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.integrations.bitsandbytes import replace_with_bnb_linear
from transformers.modeling_layers import GradientCheckpointingLayer

from tuneyard_api import reasons
from tuneyard_trainer.model.layout import weight_files
from tuneyard_trainer.model.shape import HEADS
from tuneyard_trainer.runtime.errors import BadInput
from tuneyard_trainer.weights.read_ahead import Read, ReadAhead
from tuneyard_trainer.weights.tensor_files import TensorReader

ADVICE: Final = "Set training.streamWeights to false."


class Slot(NamedTuple):
    """The place of one weight."""

    module: torch.nn.Module
    name: str
    empty: torch.nn.Parameter
    """What is there while the module does not compute. That of a quantized weight has the scales, 3 % of its size."""
    read: Read

    def fill(self) -> None:
        """A new parameter each time: the graph of an earlier pass may still hold the last one."""
        device, weight = self.empty.device, self.read()
        if isinstance(self.empty, Params4bit):
            parameter = copy.copy(self.empty)
            parameter.data = weight.to(device)
        else:
            parameter = torch.nn.Parameter(weight.to(device, self.empty.dtype), requires_grad=False)
        setattr(self.module, self.name, parameter)

    def clear(self) -> None:
        setattr(self.module, self.name, self.empty)


class WeightFiles:
    """The tensors of safetensors files, which are read when they are used."""

    def __init__(self, paths: Sequence[Path], model_uri: str) -> None:
        self._model_uri = model_uri
        self._files = {name: file for file in map(TensorReader, paths) for name in file.header.tensors}

    def reader(self, name: str) -> Read:
        """Raises BadInput where transformers would convert the tensors of the files as it loads them."""
        if name not in self._files:
            raise BadInput(
                reasons.UNSUPPORTED_MODEL,
                f"The weights of the model at {self._model_uri} cannot be streamed: its files have no tensor {name}",
                ADVICE,
            )
        return partial(self._files[name].read, name, torch.cuda.is_available())


def streamed_model(
    directory: Path, model_uri: str, quantization: BitsAndBytesConfig | None, scratch: Path, **options: Any
) -> PreTrainedModel:
    """The model in `directory`, whose decoder layers read their weights when they compute.

    Args:
        quantization: NF4 for the linear layers, whose weights are then written to `scratch`.
        options: of AutoModelForCausalLM.from_config, with `dtype`.

    Raises:
        BadInput: its files have other tensors than the modules of transformers.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    files = WeightFiles([directory / name for name in weight_files(directory)], model_uri)
    with no_init_weights(), init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(
            AutoConfig.from_pretrained(directory, local_files_only=True), **options
        )
    if quantization:
        replace_with_bnb_linear(model, sorted(HEADS), quantization)
        model.is_loaded_in_4bit = True
    model.tie_weights()  # a tied head has no tensor of its own
    layers = dict(decoder_layers(model))
    for name, _ in list(model.named_parameters()):
        if not any(name.startswith(f"{layer}.") for layer in layers):
            _put(model, name, _resident(files.reader(name)(), device, options["dtype"]))
    ahead = ReadAhead()
    for number, (prefix, layer) in enumerate(layers.items()):
        if quantization:
            path = scratch / f"layer-{number:04}.safetensors"
            slots = list(_quantized(layer, prefix, files, path, device, options["dtype"]))
        else:
            slots = list(_plain(layer, prefix, files, device, options["dtype"]))
        for name, parameter in list(layer.named_parameters()):
            if parameter.is_meta:
                _put(layer, name, _resident(files.reader(f"{prefix}.{name}")(), device, options["dtype"]))
        _stream(_read_ahead(slots, ahead) if device.type == "cuda" else slots)
    model.tie_weights()
    model.config.use_cache = False
    return model.to(device)


def decoder_layers(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module]]:
    """The modules that gradient checkpointing computes twice, by name."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, GradientCheckpointingLayer))


def _stream(slots: list[Slot]) -> None:
    """Each module fills its own slots: checkpointing computes a layer again without the hooks of the layer itself."""
    for slot in slots:
        slot.clear()
        slot.module.register_forward_pre_hook(lambda *_, slot=slot: slot.fill())
        # A pass that is only made for its graph ends with an exception as soon as the graph is complete.
        slot.module.register_forward_hook(lambda *_, slot=slot: slot.clear(), always_call=True)


def _read_ahead(slots: list[Slot], ahead: ReadAhead) -> list[Slot]:
    """The slots of one layer, read while the one before them computes."""
    reads = ahead.layer([slot.read for slot in slots])
    return [slot._replace(read=read) for slot, read in zip(slots, reads, strict=True)]


def _plain(
    layer: torch.nn.Module, prefix: str, files: WeightFiles, device: torch.device, dtype: torch.dtype
) -> Iterator[Slot]:
    for name, parameter in list(layer.named_parameters()):
        module, leaf = _owner(layer, name)
        # PEFT reads the shape of some weights: one number in memory, seen everywhere.
        empty = torch.zeros(1, dtype=dtype, device=device).expand(parameter.shape)
        slot = torch.nn.Parameter(empty, requires_grad=False)
        yield Slot(module, leaf, slot, files.reader(f"{prefix}.{name}"))


def _quantized(
    layer: torch.nn.Module, prefix: str, files: WeightFiles, path: Path, device: torch.device, dtype: torch.dtype
) -> Iterator[Slot]:
    """The linear layers in 4 bits, as bitsandbytes holds them; nothing where none is to be quantized."""
    modules = {name: module for name, module in layer.named_modules() if isinstance(module, Linear4bit)}
    packed: dict[str, torch.Tensor] = {}
    reads: Sequence[Read] = [files.reader(f"{prefix}.{name}.weight") for name in modules]
    if device.type == "cuda":
        reads = ReadAhead().layer(reads)
    for (name, module), read in zip(modules.items(), reads, strict=True):
        parameter = Params4bit(read().to(dtype), requires_grad=False, **_settings(module.weight)).to(device)
        packed[name] = parameter.data.cpu()
        parameter.data = torch.empty(0, dtype=torch.uint8, device=device)
        module.weight = parameter
    if packed:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(packed, path)
    written = WeightFiles([path] if packed else [], str(path))
    for name, module in modules.items():
        yield Slot(module, "weight", module.weight, written.reader(name))


def _settings(parameter: Params4bit) -> Mapping[str, Any]:
    return {name: getattr(parameter, name) for name in ("quant_type", "compress_statistics", "quant_storage", "module")}


def _resident(tensor: torch.Tensor, device: torch.device, dtype: torch.dtype) -> torch.nn.Parameter:
    return torch.nn.Parameter(tensor.to(device, dtype, copy=True), requires_grad=False)


def _put(root: torch.nn.Module, name: str, parameter: torch.nn.Parameter) -> None:
    module, leaf = _owner(root, name)
    setattr(module, leaf, parameter)


def _owner(root: torch.nn.Module, name: str) -> tuple[torch.nn.Module, str]:
    path, _, leaf = name.rpartition(".")
    return root.get_submodule(path), leaf
