"""16 families of chat templates with both kinds of tokenizers: each answer and its end is trained, and nothing else."""

import os
import random
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from support.families import FAMILIES, TEMPLATES, random_chat
from support.tokenizers_made import KINDS, write_tokenizer
from tuneyard_trainer.data import template as templates
from tuneyard_trainer.data.columns import IGNORED, INPUT_IDS, LABELS
from tuneyard_trainer.data.examples import Chat, Messages
from tuneyard_trainer.data.readers.row import Place
from tuneyard_trainer.data.source import SourceRow
from tuneyard_trainer.data.template import ChatTemplate
from tuneyard_trainer.data.tokenize import ExampleTokenizer
from tuneyard_trainer.data.tokenize.tokenizer import ModelTokenizer

CHATS = int(os.environ.get("TUNEYARD_FAMILY_CHATS", "12"))


def expected_labels(
    pieces: list[tuple[str, bool]], ids: list[int], places: list[tuple[int, int]], added: set[int]
) -> list[int]:
    """A token is trained if it has a character of an answer or of its end; a mark before it is not."""
    trained = [is_trained for text, is_trained in pieces for _ in text]
    return [
        token if any(trained[begin:end]) and not (token in added and not trained[begin]) else IGNORED
        for token, (begin, end) in zip(ids, places, strict=True)
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FAMILIES)
def test_family(name: str, kind: str, tmp_path: Path) -> None:
    family = FAMILIES[name]
    source = (TEMPLATES / f"{name}.jinja").read_text()
    directory = write_tokenizer(tmp_path, KINDS[kind](family.marks), bos_token=family.bos, eos_token=family.eos)
    (directory / "chat_template.jinja").write_text(source)
    reference = AutoTokenizer.from_pretrained(directory)
    added = set(reference.added_tokens_decoder)
    untrimmed = KINDS[kind.removesuffix("-trims")](family.marks)
    tokenizer = ModelTokenizer(directory, "s3://models/tiny")
    examples = ExampleTokenizer(ChatTemplate(source, tokenizer.special_tokens), tokenizer, "the template")
    chance = random.Random(f"{name}/{kind}")  # noqa: S311
    chats = [random_chat(chance, has_system=family.has_system) for _ in range(CHATS)]
    rows = examples.tokenize([SourceRow(Chat(chat), Place("", 1), "train", b"") for chat in chats])
    for chat, row in zip(chats, rows, strict=True):
        pieces = family.pieces(chat)
        text = "".join(piece for piece, _ in pieces)
        assert rendered(reference, chat) == text
        ids = reference(text, add_special_tokens=False)["input_ids"]
        assert row.tokens[INPUT_IDS].tolist() == ids
        assert row.tokens[LABELS].tolist() == expected_labels(pieces, ids, untrimmed.encode(text).offsets, added), text
        answers = sum(message.role == "assistant" for message in chat)
        assert [answer.left_out for answer in row.answers] == [""] * answers
    ends = {reference.convert_tokens_to_ids(end) for end in family.ends}
    assert {answer.end_token for row in rows for answer in row.answers} == ends


def rendered(reference: Any, chat: Messages) -> str:
    """What transformers makes of it, on the day that templates are told here."""
    text: str = reference.apply_chat_template([message.to_json() for message in chat], tokenize=False)
    return text.replace(datetime.now().strftime("%Y-%m-%d"), templates.TODAY.strftime("%Y-%m-%d"))
