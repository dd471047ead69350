"""What a server reads beside the weights of a merged model."""

import json
from pathlib import Path
from typing import Any

import pytest

from tuneyard_trainer.exporters.serving_files import write_serving_files

CASES: dict[str, tuple[dict[str, Any] | None, dict[str, Any], list[int]]] = {
    "the base's end of text is another one": ({"eos_token_id": 0, "temperature": 0.6}, {}, [0, 7]),
    "several": ({"eos_token_id": [1, 0]}, {}, [1, 0, 7]),
    "trained already": ({"eos_token_id": [7, 0]}, {}, [7, 0]),
    "in config.json only": ({"temperature": 0.6}, {"eos_token_id": 2}, [2, 7]),
    "no generation_config.json": (None, {"eos_token_id": [2, 3]}, [2, 3, 7]),
    "none at all": (None, {"eos_token_id": None}, [7]),
}


@pytest.mark.parametrize(("generation", "model", "expected"), CASES.values(), ids=CASES)
def test_what_was_trained_as_the_end_stops_the_server(
    tmp_path: Path, generation: dict[str, Any] | None, model: dict[str, Any], expected: list[int]
) -> None:
    merged, tokenizer = tmp_path / "merged", tmp_path / "tokenizer"
    merged.mkdir()
    tokenizer.mkdir()
    (merged / "config.json").write_text(json.dumps(model))
    if generation is not None:
        (merged / "generation_config.json").write_text(json.dumps(generation))
    write_serving_files(merged, tokenizer, [7])
    written = json.loads((merged / "generation_config.json").read_text())
    assert written == (generation or {}) | {"eos_token_id": expected}


def test_the_tokenizer_that_trained_is_the_only_one(tmp_path: Path) -> None:
    merged, tokenizer = tmp_path / "merged", tmp_path / "tokenizer"
    merged.mkdir()
    tokenizer.mkdir()
    of_base = ("tokenizer.json", "special_tokens_map.json", "chat_template.json", "tekken.json", "vocab.txt")
    for name in ("config.json", *of_base):
        (merged / name).write_text("{}")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "manifest.json"):
        (tokenizer / name).write_text("of the training")
    write_serving_files(merged, tokenizer, [7])
    trained = {path.name for path in merged.iterdir() if path.read_text() == "of the training"}
    assert trained == {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    others = {path.name for path in merged.iterdir()} - trained
    assert others == {"config.json", "generation_config.json", "vocab.txt"}
