"""What an adapter changes in the files of its base model, computed by PEFT itself, one parameter at a time.

The model is made without memory (on torch's meta device) and PEFT adapts it, so that names, ranks, scales and the
arithmetic are its own: LoRA, rsLoRA, DoRA, transposed layers (Conv1D), joint parameters of experts, saved modules.
transformers 5 gives some parameters other names and forms than the files have; its own reverse conversion says which
tensors of the files they are. It only moves values, so it turns a parameter's change into the tensors' changes.
"""

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import ParamWrapper
from peft.utils import load_peft_weights, set_peft_model_state_dict
from peft.utils.other import ModulesToSaveWrapper
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.core_model_loading import revert_weight_conversion

from tuneyard_api import reasons
from tuneyard_trainer.runtime.errors import BadInput

ADAPTER: Final = "default"
PREFIX: Final = "base_model.model."
OWN: Final = re.compile(rf"\.(lora_\w+|modules_to_save)\.{ADAPTER}(\.|$)")
"""The parameters of an adapter, beside those of its base model."""

Tensors = dict[str, torch.Tensor]


class Change(Protocol):
    """Computes the new values of a tensor of the files, in float32, from its base values in float32."""

    def __call__(self, base: torch.Tensor) -> torch.Tensor: ...


class Adapter:
    """An adapter, and the changes that it makes to the tensors of the base model's files.

    Args:
        base: directory of the base model; only its configuration is read.
        directory: of the adapter.
        shapes: the shapes of the tensors of the base model's files.

    Raises:
        BadInput: a changed parameter is not found in the base model's files.
    """

    def __init__(self, base: Path, directory: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
        config = AutoConfig.from_pretrained(base, local_files_only=True)
        self._model = _without_memory(config)  # as transformers makes it, to convert names
        adapted = PeftModel.from_pretrained(_without_memory(config), directory)
        _give_memory(adapted)
        set_peft_model_state_dict(adapted, load_peft_weights(directory, device="cpu"))
        self._shapes = shapes
        self.changes: dict[str, Change] = {}
        self.added: Tensors = {}
        """Tensors that the files do not have: a saved head that was tied to the embedding."""
        self._last: tuple[LoraLayer, Tensors] | None = None
        self.parameters = 0
        for name, module in adapted.named_modules():
            if isinstance(module, LoraLayer):
                self._adapt(_original(name), module)
            elif isinstance(module, ModulesToSaveWrapper):
                self._replace(_original(name), module)

    def _adapt(self, name: str, layer: LoraLayer) -> None:
        if ADAPTER not in {**layer.lora_A, **layer.lora_embedding_A}:
            return
        self.parameters += 1
        parameter = f"{name}.{layer.parameter_name if isinstance(layer, ParamWrapper) else 'weight'}"
        shape = _parameter(layer).shape
        where = self._in_files({parameter: torch.empty(shape, device="meta")})
        if ADAPTER in layer.lora_variant:
            (tensor,) = where  # PEFT has no variants of joint parameters
            self.changes[tensor] = partial(_merge_variant, layer)
        else:
            for tensor in where:
                self.changes[tensor] = partial(self._add_delta, layer, parameter, tensor)
        if layer.lora_bias.get(ADAPTER):
            self._add_bias(name, layer)

    def _add_bias(self, name: str, layer: LoraLayer) -> None:
        added = layer.lora_B[ADAPTER].bias * layer.scaling[ADAPTER]
        for tensor, delta in self._in_files({f"{name}.bias": added}).items():
            self.changes[tensor] = partial(torch.add, delta)

    def _add_delta(self, layer: LoraLayer, parameter: str, tensor: str, base: torch.Tensor) -> torch.Tensor:
        if self._last is None or self._last[0] is not layer:
            self._last = None  # before the next one is computed
            self._last = layer, self._in_files({parameter: _delta(layer)})
        return base + self._last[1][tensor]

    def _replace(self, name: str, wrapper: ModulesToSaveWrapper) -> None:
        for parameter, value in wrapper.modules_to_save[ADAPTER].state_dict().items():
            self.parameters += 1
            full = f"{name}.{parameter}"
            found = self._find({full: value})
            if found is None:
                self.added[full] = value
            else:
                for tensor, saved in found.items():
                    self.changes[tensor] = partial(_replaced, saved)

    def _in_files(self, parameters: Tensors) -> Tensors:
        found = self._find(parameters)
        if found is None:
            name, value = next(iter(parameters.items()))
            raise BadInput(
                reasons.INVALID_SPEC,
                f"The adapter changes {name} {tuple(value.shape)}, which the base model's files do not have",
                "Save the base model again with transformers' save_pretrained and use that as spec.model.uri.",
            )
        return found

    def _find(self, parameters: Tensors) -> Tensors | None:
        """The parameters in the names and forms of the files; None where the files lack them."""
        prefix = f"{self._model.base_model_prefix}."
        for converted in (revert_weight_conversion(self._model, parameters), parameters):
            for renamed in (str, lambda name: name.removeprefix(prefix), lambda name: prefix + name):
                found = {renamed(name): tensor for name, tensor in converted.items()}
                if all(self._shapes.get(name) == tuple(tensor.shape) for name, tensor in found.items()):
                    return found
        return None


def _without_memory(config: Any) -> Any:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def _give_memory(adapted: PeftModel) -> None:
    """The adapter's own parameters get memory; PEFT has put them where the base model is."""
    for name, parameter in list(adapted.named_parameters()):
        if OWN.search(name):
            module, _, leaf = name.rpartition(".")
            own = torch.nn.Parameter(torch.empty_like(parameter, device="cpu"), requires_grad=False)
            adapted.get_submodule(module).register_parameter(leaf, own)


def _original(name: str) -> str:
    """The name of a module before PEFT has wrapped it."""
    return name.removeprefix(PREFIX).replace(".base_layer", "")


def _parameter(layer: LoraLayer) -> torch.Tensor:
    return layer.get_param() if isinstance(layer, ParamWrapper) else layer.get_base_layer().weight


def _delta(layer: LoraLayer) -> torch.Tensor:
    """What the adapter adds to the parameter."""
    if isinstance(layer, ParamWrapper):
        # PEFT moves the result to the parameter's device and type, so that needs one that holds values.
        layer.get_base_layer().register_parameter(layer.parameter_name, torch.nn.Parameter(torch.empty(0)))
    return layer.get_delta_weight(ADAPTER).detach()


def _merge_variant(layer: LoraLayer, base: torch.Tensor) -> torch.Tensor:
    """DoRA and other variants need the base weight itself."""
    layer.get_base_layer().weight = torch.nn.Parameter(base, requires_grad=False)
    layer.merge(adapter_names=[ADAPTER])
    return layer.get_base_layer().weight.data


def _replaced(saved: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    return saved.to(torch.float32)
