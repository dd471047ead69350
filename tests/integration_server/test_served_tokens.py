"""vLLM renders and tokenizes chats as prepare did, with the base model and with what export publishes."""

import json
import os
from pathlib import Path

import pytest
from vllm.tokenizers import get_tokenizer

# What tests/integration/write_tokens.py has written.
WRITTEN = sorted(Path(os.environ["TUNEYARD_WRITTEN_TOKENS"]).iterdir())


@pytest.mark.parametrize("part", ["model", "published"])
@pytest.mark.parametrize("directory", WRITTEN, ids=lambda path: path.name)
def test_ids_are_those_of_prepare(directory: Path, part: str) -> None:
    tokenizer = get_tokenizer(directory / part)
    rows = json.loads((directory / "rows.json").read_text())
    assert rows
    for messages, ids in rows:
        served = tokenizer.apply_chat_template(messages, tokenize=True, truncation=False, padding=False)
        assert list(served["input_ids"] if isinstance(served, dict) or hasattr(served, "keys") else served) == ids


def test_all_models_are_there() -> None:
    assert len(WRITTEN) >= 16 * 2
