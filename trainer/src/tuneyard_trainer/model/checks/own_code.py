"""The model needs no code of its own: none from a model's directory is ever run."""

from typing import Final

from tuneyard_api import reasons
from tuneyard_api.kinds.training import Training
from tuneyard_trainer.model.architectures import transformers_version
from tuneyard_trainer.model.base import BaseModel
from tuneyard_trainer.runtime.errors import BadInput

MODEL_CLASSES: Final = ("AutoConfig", "AutoModel", "AutoModelForCausalLM")


def check(model: BaseModel, training: Training) -> None:
    """Where transformers has the model type itself it ignores auto_map, as it does for Phi-3 and Qwen."""
    own = model.config.get("auto_map")
    if model.kind is None and isinstance(own, dict) and any(name in own for name in MODEL_CLASSES):
        raise BadInput(
            reasons.UNSUPPORTED_MODEL,
            f"The model at {model.uri} needs Python code from its own directory (auto_map in config.json, which asks "
            f"for trust_remote_code), and transformers {transformers_version()} has no model_type {model.model_type!r}",
            "Tune a model whose architecture is part of transformers; code from a model's directory is never run.",
        )
