"""Plain text and pairs of answers: from rows to the columns of the shards."""

from array import array
from pathlib import Path
from typing import Any

import pytest
from tokenizers.processors import TemplateProcessing

from support.tinymodel import TEMPLATE, TURN_END, byte_tokenizer, write_model
from support.tokenizers_made import byte_level, write_tokenizer
from tuneyard_api.kinds.dataset import Cleaning
from tuneyard_api.kinds.training import Dpo, Training
from tuneyard_api.registry import BACKENDS
from tuneyard_trainer.data.cleaning import TOKEN_STEPS
from tuneyard_trainer.data.cleaning.step import CleaningContext, apply_steps
from tuneyard_trainer.data.columns import IGNORED, INPUT_IDS, LABELS, REJECTED
from tuneyard_trainer.data.dataset import write_splits
from tuneyard_trainer.data.dropped import DroppedRows
from tuneyard_trainer.data.examples import Chat, Example, Message, Preference, RowError, Text, content_key
from tuneyard_trainer.data.formats import detect, load_format
from tuneyard_trainer.data.formats.fields import Fields
from tuneyard_trainer.data.readers.row import Place
from tuneyard_trainer.data.shards import read_rows
from tuneyard_trainer.data.source import KnownRow, SourceRow
from tuneyard_trainer.data.split import TRAIN
from tuneyard_trainer.data.template import ChatTemplate
from tuneyard_trainer.data.tokenize import ExampleTokenizer, TokenizedExample
from tuneyard_trainer.data.tokenize.tokenizer import ModelTokenizer
from tuneyard_trainer.data.trainable import require_trainable

WHY = {"role": "user", "content": "Why?"}
SO = {"role": "assistant", "content": "So."}
NO = {"role": "assistant", "content": "No."}
PAIR = Preference((Message("user", "Why?"),), (Message("assistant", "So."),), (Message("assistant", "No."),))
CHAT = Chat((Message("user", "Why?"), Message("assistant", "So.")))


def source(example: Example, line: int = 1) -> SourceRow:
    return SourceRow(example, Place("s3://data/x.jsonl", line), "train", content_key(example))


def example_tokenizer(tmp_path: Path) -> ExampleTokenizer:
    tokenizer = ModelTokenizer(write_model(tmp_path / "model"), "s3://models/tiny")
    return ExampleTokenizer(ChatTemplate(TEMPLATE, tokenizer.special_tokens), tokenizer, "The template")


def kept(rows: list[TokenizedExample], max_length: int) -> list[TokenizedExample]:
    return list(apply_steps(TOKEN_STEPS, rows, CleaningContext(Cleaning(), max_length, DroppedRows())))


def decoded(row: TokenizedExample, prefix: str = "") -> tuple[str, str]:
    """The whole text, and what of it is trained."""
    ids, labels = row.tokens[prefix + INPUT_IDS].tolist(), row.tokens[prefix + LABELS].tolist()
    trained = [label for label in labels if label != IGNORED]
    assert all(label in (IGNORED, token) for token, label in zip(ids, labels, strict=True))
    tokenizer = byte_tokenizer()
    return tokenizer.decode(ids, skip_special_tokens=False), tokenizer.decode(trained, skip_special_tokens=False)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Why?", "chosen": "So.", "rejected": "No."},
        {"question": "Why?", "chosen": "So.", "rejected": "No."},
        {"prompt": [WHY], "chosen": [SO], "rejected": [NO]},
        {"chosen": [WHY, SO], "rejected": [WHY, NO]},
        {"prompt": "Why?", "chosen": [WHY, SO], "rejected": [WHY, NO], "score_chosen": 9},
    ],
)
def test_read_preference(row: dict[str, Any]) -> None:
    assert detect(row) == "preference"
    fields = Fields(row)
    assert load_format("preference").read(fields) == PAIR
    assert [*fields.unread()] in ([], ["score_chosen"])


def test_earlier_answers_of_a_pair_are_context() -> None:
    row = {"system": "Be brief.", "chosen": [WHY, NO, WHY, SO], "rejected": [WHY, NO, WHY, NO]}
    pair = load_format("preference").read(Fields(row))
    assert isinstance(pair, Preference)
    assert [(message.role, message.trained) for message in pair.prompt] == [
        ("system", True),
        ("user", True),
        ("assistant", False),
        ("user", True),
    ]


def test_pair_to_tokens(tmp_path: Path) -> None:
    """The columns of a chat are those of the chosen answer, so that whoever knows only them sees what is wanted."""
    tokenizer = example_tokenizer(tmp_path)
    pair, chat = tokenizer.tokenize([source(PAIR), source(CHAT)])
    assert {INPUT_IDS: pair.tokens[INPUT_IDS], LABELS: pair.tokens[LABELS]} == chat.tokens
    text, trained = decoded(pair, REJECTED)
    assert text == f"<|im_start|>user\nWhy?{TURN_END}\n<|im_start|>assistant\nNo.{TURN_END}\n"
    assert trained == f"No.{TURN_END}"
    assert [part.text for part in tokenizer.show(source(PAIR), 1000) if part.is_trained] == [f"So.{TURN_END}"]


def test_pair_without_a_rejected_answer_is_dropped(tmp_path: Path) -> None:
    (pair,) = example_tokenizer(tmp_path).tokenize([source(PAIR)])
    cut = pair.tokens | {REJECTED + LABELS: array("i", [IGNORED]) * len(pair.tokens[REJECTED + LABELS])}
    assert kept([pair], 100) == [pair]
    assert not kept([pair._replace(tokens=cut)], 100)


def test_text_to_tokens(tmp_path: Path) -> None:
    tokenizer = example_tokenizer(tmp_path)
    (row,) = tokenizer.tokenize([source(Text("Once. ä"))])
    assert decoded(row) == (f"Once. ä{TURN_END}",) * 2, "the tokenizer's end of text is trained"
    assert [part.is_trained for part in tokenizer.show(row.source, 1000)] == [True]


def test_text_begins_as_the_tokenizer_begins_texts(tmp_path: Path) -> None:
    made = byte_level(("<s>", "</s>"))
    made.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", made.token_to_id("<s>"))])
    directory = write_tokenizer(tmp_path / "made", made, bos_token="<s>", eos_token="</s>")
    assert ModelTokenizer(directory, "s3://models/tiny").text_start == "<s>"
    plain = write_tokenizer(tmp_path / "plain", byte_level(("<s>",)), bos_token="<s>")
    assert ModelTokenizer(plain, "s3://models/tiny").text_start == ""


def test_long_text_is_cut_into_pieces(tmp_path: Path) -> None:
    """No token of it is lost; the text itself is written once."""
    rows = example_tokenizer(tmp_path).tokenize([source(Text("abcdefghijk"), 1), source(Text("xyz"), 2)])
    pieces = kept(rows, 4)
    assert [decoded(row)[1] for row in pieces] == ["abcd", "efgh", f"ijk{TURN_END}", f"xyz{TURN_END}"]
    assert [row.piece for row in pieces] == [0, 1, 2, 0]
    write_splits(((TRAIN, piece) for piece in pieces), [TRAIN], tmp_path / "out", lambda split, row: None)
    assert len((tmp_path / "out/train.jsonl").read_text().splitlines()) == 2
    assert read_rows(tmp_path / "out/train").lengths == [4, 4, 4, 4]


def test_pairs_are_trained_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKENDS, "pairs", BACKENDS["peft"]._replace(rows=("chat", "preference")))
    refused: list[tuple[int, str]] = []

    def refuse(error: RowError, row: KnownRow) -> None:
        refused.append((row.where.number, error.message))

    examples: tuple[Example, ...] = (PAIR, CHAT, PAIR, Text("Once."))
    rows = [source(example, line) for line, example in enumerate(examples, start=1)]
    training = Training(backend="pairs", dpo=Dpo())
    assert [row.where.number for row in require_trainable(rows, training, refuse)] == [1, 3]
    unknown = (4, "the backend pairs does not train rows of the format text")
    assert refused == [(2, "no pair of answers, as training.dpo trains"), unknown]
    refused.clear()
    assert [row.where.number for row in require_trainable(rows, Training(backend="pairs"), refuse)] == [2]
    pair = "a pair of answers, which only training.dpo trains"
    assert refused == [(1, pair), (3, pair), unknown]


def test_backend_without_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    refused: list[RowError] = []
    monkeypatch.setitem(BACKENDS, "chats", BACKENDS["peft"]._replace(rows=("chat",)))
    training = Training(backend="chats")
    rows = list(require_trainable([source(PAIR), source(CHAT)], training, lambda error, row: refused.append(error)))
    assert [row.example for row in rows] == [CHAT]
    assert "write the chosen answer as completion" in refused[0].advice
