"""A tokenizer with more tokens than the embedding has rows is refused before training fails on one of them."""

import json
from pathlib import Path

import pytest

from support.tinymodel import TEMPLATE, TURN_END, byte_tokenizer
from tuneyard_trainer.data.columns import INPUT_IDS, as_array
from tuneyard_trainer.data.examples import Chat
from tuneyard_trainer.data.readers.row import Place
from tuneyard_trainer.data.source import SourceRow
from tuneyard_trainer.data.template import ChatTemplate
from tuneyard_trainer.data.tokenize import TokenizedExample
from tuneyard_trainer.data.tokenize.tokenizer import ModelTokenizer
from tuneyard_trainer.data.tokenize.vocabulary import check_vocabulary, within
from tuneyard_trainer.runtime.errors import BadInput

URI = "s3://models/tiny"


def tokenizer(directory: Path, *added: str, **special: str) -> ModelTokenizer:
    """256 bytes, two marks of turns (256 and 257), and what is added."""
    made = byte_tokenizer()
    made.add_special_tokens(list(added))
    made.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps(special))
    return ModelTokenizer(directory, URI)


@pytest.mark.parametrize("rows", [258, 259, 1000])
def test_every_token_has_a_row(rows: int, tmp_path: Path) -> None:
    check_vocabulary(tokenizer(tmp_path), ChatTemplate(TEMPLATE, {}), rows)


@pytest.mark.parametrize(
    ("rows", "says"),
    [(257, f"258 tokens, the model's embedding only 257 rows ({TURN_END} has none)"), (200, "200 rows")],
)
def test_too_few_rows(rows: int, says: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput) as raised:
        check_vocabulary(tokenizer(tmp_path), ChatTemplate(TEMPLATE, {}), rows)
    assert says in raised.value.message
    assert f"{URI}/tokenizer.json" in raised.value.message
    assert "resize_token_embeddings" in raised.value.advice


def test_a_token_that_no_chat_uses(tmp_path: Path) -> None:
    """Gemma 3's tokenizer has one more token than its models for text have rows."""
    check_vocabulary(tokenizer(tmp_path, "<image>"), ChatTemplate(TEMPLATE, {}), 258)


@pytest.mark.parametrize("template", [TEMPLATE + "{{ '<image>' }}", TEMPLATE])
def test_a_token_that_chats_use(template: str, tmp_path: Path) -> None:
    special = {"pad_token": "<image>"} if template == TEMPLATE else {}
    with pytest.raises(BadInput, match="<image> has none"):
        check_vocabulary(tokenizer(tmp_path, "<image>", **special), ChatTemplate(template, {}), 258)


def test_a_token_of_a_row(tmp_path: Path) -> None:
    rows = [
        TokenizedExample(
            SourceRow(Chat(()), Place("s3://data/d.jsonl", number), "train", b""), {INPUT_IDS: as_array(ids)}
        )
        for number, ids in enumerate(([], [0, 257], [3, 258]), start=1)
    ]
    checked = iter(within(rows, 258, tokenizer(tmp_path, "<image>")))
    assert [next(checked), next(checked)] == rows[:2]
    with pytest.raises(BadInput, match=rf"line 3: {URI}/tokenizer.json makes the token 258, .* 258 rows"):
        next(checked)
    assert within(rows, 259, tokenizer(tmp_path, "<image>")) is rows, "the tokenizer has no larger token"
