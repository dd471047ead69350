"""Training backends: one folder each, and one line in tuneyard_api.registry.BACKENDS."""

from importlib import import_module

from tuneyard_api import reasons
from tuneyard_api.kinds.finetunejob import FineTuneJobSpec
from tuneyard_api.registry import BACKENDS, module_name
from tuneyard_trainer.backends.base import Backend
from tuneyard_trainer.runtime.errors import BadInput


def backend_of(name: str) -> Backend:
    """The backend of a name of tuneyard_api.registry.BACKENDS."""
    backend: Backend = import_module(f"{__name__}.{module_name(name)}.backend").BACKEND
    return backend


def check_training(spec: FineTuneJobSpec) -> None:
    """Raises BadInput when the backend cannot train this spec."""
    name, method = spec.training.backend, spec.training.method
    methods = BACKENDS[name].methods
    if method not in methods:
        raise BadInput(
            reasons.INVALID_SPEC,
            f"training.backend {name} has no method {method}",
            f"Set training.method to {' or '.join(methods)}, or choose another training.backend.",
        )
    backend_of(name).check(spec)
