"""Whether two models have the same vocabulary, as speculative decoding needs it: the draft's tokens are the model's."""

import json
from pathlib import Path
from typing import Any, Final

TOKENIZER: Final = "tokenizer.json"
CONFIG: Final = "config.json"


def difference(model: Path, draft: Path) -> str | None:
    """How the vocabulary of a draft model differs from the model's; None where they are the same.

    Args:
        model: a model directory as Hugging Face has it.
        draft: another one.
    """
    sizes = _vocabulary_size(model), _vocabulary_size(draft)
    if None not in sizes and sizes[0] != sizes[1]:
        return f"the model has {sizes[0]} tokens (vocab_size in {CONFIG}), the draft model {sizes[1]}"
    if not ((model / TOKENIZER).is_file() and (draft / TOKENIZER).is_file()):
        return None  # vLLM compares the sizes again
    tokens, drafts = _tokens(model), _tokens(draft)
    for token, number in tokens.items():
        if drafts.get(token) != number:
            return f"token {number} of the model is {token!r}, which the draft model has as {drafts.get(token)}"
    extra = next((token for token in drafts if token not in tokens), None)
    return None if extra is None else f"the draft model has the token {extra!r}, which the model lacks"


def _vocabulary_size(directory: Path) -> int | None:
    """vocab_size of the language model; multimodal models have it one level deeper."""
    path = directory / CONFIG
    config: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    size = config.get("vocab_size", config.get("text_config", {}).get("vocab_size"))
    return size if isinstance(size, int) else None


def _tokens(directory: Path) -> dict[str, int]:
    """The number of each token, added ones too. Unigram models list [token, score] in the order of the numbers."""
    document: dict[str, Any] = json.loads((directory / TOKENIZER).read_text())
    listed = document.get("model", {}).get("vocab", {})
    numbered = listed.items() if isinstance(listed, dict) else ((token, at) for at, (token, _) in enumerate(listed))
    vocabulary: dict[str, int] = dict(numbered)
    added = {token["content"]: token["id"] for token in document.get("added_tokens", [])}
    return vocabulary | added
