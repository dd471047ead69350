"""What a server reads beside the weights: the tokenizer and the chat template that trained, and the stop tokens."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

GENERATION_CONFIG: Final = "generation_config.json"
# Of the base model, what a loader would prefer to the tokenizer that trained, or mix with it.
REPLACED: Final = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tekken.json"),
    *("chat_template.jinja", "chat_template.json"),
)


def write_serving_files(directory: Path, tokenizer: Path, end_of_turn: Sequence[int]) -> None:
    """Writes the tokenizer, the chat template and generation_config.json of a merged model.

    Args:
        directory: the merged model, with the base model's configuration.
        tokenizer: the directory that prepare has published.
        end_of_turn: the tokens that the model is trained to end its turns with.
    """
    for name in REPLACED:
        (directory / name).unlink(missing_ok=True)
    for path in tokenizer.iterdir():
        shutil.copyfile(path, directory / path.name)
    (directory / "manifest.json").unlink(missing_ok=True)
    path = directory / GENERATION_CONFIG
    config: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    config["eos_token_id"] = stop_tokens(config, json.loads((directory / "config.json").read_text()), end_of_turn)
    path.write_text(json.dumps(config, indent=2) + "\n")


def stop_tokens(generation: dict[str, Any], model: dict[str, Any], end_of_turn: Sequence[int]) -> list[int]:
    """The base model's own stop tokens and the trained ones: vLLM and transformers stop at each of them."""
    own = generation.get("eos_token_id", model.get("eos_token_id"))
    known = own if isinstance(own, list) else [own]
    return list(dict.fromkeys(token for token in (*known, *end_of_turn) if isinstance(token, int)))
