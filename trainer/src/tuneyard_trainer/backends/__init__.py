"""Training backends: one folder each, and one line in tuneyard_api.registry.BACKENDS."""

from importlib import import_module
from typing import Final

from tuneyard_api import reasons
from tuneyard_api.kinds.finetunejob import FineTuneJobSpec
from tuneyard_api.registry import BACKENDS, module_name
from tuneyard_trainer.backends.base import Backend
from tuneyard_trainer.runtime.errors import BadInput

ANOTHER: Final = "or choose another training.backend."


def backend_of(name: str) -> Backend:
    """The backend of a name of tuneyard_api.registry.BACKENDS."""
    backend: Backend = import_module(f"{__name__}.{module_name(name)}.backend").BACKEND
    return backend


def check_training(spec: FineTuneJobSpec) -> None:
    """Raises BadInput when the backend cannot train this spec."""
    check_capabilities(spec)
    backend_of(spec.training.backend).check(spec)


def check_capabilities(spec: FineTuneJobSpec) -> None:
    """Raises BadInput when the spec asks for more than the backend's line in the registry has."""
    training = spec.training
    name, can = training.backend, BACKENDS[training.backend]
    if training.method not in can.methods:
        raise BadInput(
            reasons.INVALID_SPEC,
            f"training.backend {name} has no method {training.method}",
            f"Set training.method to {' or '.join(can.methods)}, {ANOTHER}",
        )
    if training.lora.variant not in can.variants:
        raise BadInput(
            reasons.INVALID_SPEC,
            f"training.backend {name} has no variant {training.lora.variant} of LoRA",
            f"Set training.lora.variant to {' or '.join(can.variants)}, {ANOTHER}",
        )
    _check_devices(spec)


def _check_devices(spec: FineTuneJobSpec) -> None:
    training, resources = spec.training, spec.resources
    name, can = training.backend, BACKENDS[training.backend]
    if can.needs_gpu and not resources.gpus:
        raise BadInput(
            reasons.INVALID_SPEC,
            f"training.backend {name} needs a GPU, and resources.gpus is 0",
            f"Set resources.gpus: 1, {ANOTHER}",
        )
    if can.max_devices is not None and resources.devices > can.max_devices:
        raise BadInput(
            reasons.INVALID_SPEC,
            f"training.backend {name} trains on {can.max_devices} GPU, and resources ask for {resources.devices}",
            f"Set resources.gpus: {can.max_devices} and resources.nodes: 1, {ANOTHER}",
        )
    if training.stream_weights and resources.devices > 1:
        raise BadInput(
            reasons.INVALID_SPEC,
            f"training.streamWeights is for one GPU, and resources ask for {resources.devices}",
            "Set resources.gpus: 1 and resources.nodes: 1, or leave training.streamWeights out.",
        )
