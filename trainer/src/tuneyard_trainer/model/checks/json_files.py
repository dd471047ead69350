"""The small files are what their names say, and those that transformers reads in JSON are JSON objects."""

from typing import Final

from tuneyard_api import reasons
from tuneyard_api.kinds.training import Training
from tuneyard_trainer.model.base import BaseModel
from tuneyard_trainer.runtime.errors import BadInput
from tuneyard_trainer.runtime.userfiles import HEAD_BYTES, mistaken, read_object

# config.json is read before any check; tokenizer.json by its own library.
OBJECTS: Final = (
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.json",
)
# Files without which a model is another one. What else lies there, such as a license, may be anything.
NEEDED: Final = ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", "chat_template.jinja")


def check(model: BaseModel, training: Training) -> None:
    for name in model.files:
        if name in OBJECTS:
            read_object(model.directory / name, model.file(name))
        elif name in NEEDED or name.endswith((".model", ".tiktoken")):
            with (model.directory / name).open("rb") as stream:
                found = mistaken(stream.read(HEAD_BYTES))
            if found:
                raise BadInput(reasons.INVALID_MODEL, f"{model.file(name)} {found.what}", found.advice)
