"""The embedding has a row for each token that config.json counts; see data/tokenize for the tokenizer's tokens."""

import re
from typing import Final

from tuneyard_api import reasons
from tuneyard_api.kinds.training import Training
from tuneyard_trainer.model.base import BaseModel
from tuneyard_trainer.model.names import stored
from tuneyard_trainer.runtime.errors import BadInput

# The input embedding of architectures whose structure is not known.
EMBEDDING: Final = re.compile(r"(^|\.)(embed_tokens|wte|embed_in|word_embeddings|tok_embeddings|embeddings?)\.weight$")


def check(model: BaseModel, training: Training) -> None:
    rows, size = embedding_rows(model), model.config.get("vocab_size")
    if rows is not None and isinstance(size, int) and rows < size:
        raise BadInput(
            reasons.INVALID_MODEL,
            f"The embedding of the model at {model.uri} has {rows} rows, but vocab_size in config.json is {size}",
            "Upload the config.json and the *.safetensors files of one version of the model.",
        )


def embedding_rows(model: BaseModel) -> int | None:
    """How many tokens the model has an embedding for; None where that is not known."""
    if model.structure:
        tensor = stored(model, model.structure.embedding) or stored(model, model.structure.head)
        return tensor.shape[0] if tensor and tensor.shape else None
    rows = [tensor.shape[0] for name, tensor in model.tensors.items() if EMBEDDING.search(name) and tensor.shape]
    return rows[0] if len(rows) == 1 else None
