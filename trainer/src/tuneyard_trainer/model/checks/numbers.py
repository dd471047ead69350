"""The sizes in config.json are whole numbers above 0: with others transformers fails far from the cause."""

from typing import Final

from tuneyard_api import reasons
from tuneyard_api.kinds.training import Training
from tuneyard_trainer.model.base import BaseModel
from tuneyard_trainer.runtime.errors import BadInput

SIZES: Final = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "max_position_embeddings"),
    *("n_embd", "n_layer", "n_head", "n_positions", "num_key_value_heads", "head_dim", "intermediate_size"),
)


def check(model: BaseModel, training: Training) -> None:
    for field in SIZES:
        value = model.config.get(field)
        # Some architectures have a size for each layer.
        if value is None or isinstance(value, list):
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
            raise BadInput(
                reasons.INVALID_MODEL,
                f"{model.file('config.json')}: {field} is {value!r}, not a whole number above 0",
                "Correct it, or upload the model's own config.json.",
            )
