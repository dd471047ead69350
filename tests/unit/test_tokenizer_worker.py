"""The tokenizer that prepare trains with is the one that AutoTokenizer builds, and so is the one that is published."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from support.models_made import CHATML, CHATS, MODELS
from support.tokenizers_made import KINDS, byte_level, write_tokenizer
from tuneyard_api import reasons
from tuneyard_api.contracts.requests import TokenizerRequest
from tuneyard_trainer.data.examples import Messages
from tuneyard_trainer.data.template import ChatTemplate, require_template
from tuneyard_trainer.data.tokenize.plain import MODEL_TYPES
from tuneyard_trainer.data.tokenize.tokenizer import (
    ModelTokenizer,
    check_files,
    make_generic,
    uses_tokenizer_as_it_is,
)
from tuneyard_trainer.data.tokenize.tokenizer_worker import write_tokenizer as run_worker
from tuneyard_trainer.runtime.errors import BadInput

URI = "s3://models/tiny"


@pytest.fixture(autouse=True)
def torch_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker hides torch from its own process, which is this one here."""
    monkeypatch.setitem(sys.modules, "torch", sys.modules.get("torch"))


def load(model: Path) -> ModelTokenizer:
    """As prepare loads it."""
    output = model.parent / f"{model.name}-loaded"
    output.mkdir()
    check_files(model, URI)
    run_worker(TokenizerRequest(model=model, model_uri=URI, output=output))
    tokenizer = ModelTokenizer(output, URI)
    make_generic(output / "tokenizer_config.json", tokenizer)
    return tokenizer


def expected_ids(tokenizer: Any, chat: Messages) -> list[int]:
    messages = [message.to_json() for message in chat]
    ids: list[int] = tokenizer.apply_chat_template(messages, truncation=False, padding=False)["input_ids"]
    return ids


@pytest.mark.parametrize("name", MODELS)
def test_ids_are_those_of_transformers(tmp_path: Path, name: str) -> None:
    model = tmp_path / "model"
    MODELS[name](model)
    tokenizer = load(model)
    reference = AutoTokenizer.from_pretrained(model)
    template = ChatTemplate(require_template(model, None, URI), tokenizer.special_tokens)
    texts = [template.render(chat) for chat in CHATS]
    ids = [list(encoding.ids) for encoding in tokenizer.encode(texts)]
    assert tokenizer.special_tokens == reference.special_tokens_map
    assert ids == [expected_ids(reference, chat) for chat in CHATS]

    # The published model has the base model's config.json beside it.
    shutil.copyfile(model / "config.json", tokenizer.directory / "config.json")
    (tokenizer.directory / "chat_template.jinja").write_text(template.source)
    published = AutoTokenizer.from_pretrained(tokenizer.directory)
    assert ids == [expected_ids(published, chat) for chat in CHATS]
    assert published.special_tokens_map == reference.special_tokens_map
    text = "So, 1 + 1 = 2.\n  x"
    assert published(text)["input_ids"] == untrimmed(reference)(text)["input_ids"]


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_plain_tokenizers_need_no_worker(tmp_path: Path, model_type: str) -> None:
    """transformers takes them as they are, whatever class it has for the type of the model."""
    for kind in KINDS.values():
        model = tmp_path / "model"
        marks = ("<s>", "</s>", "<|im_start|>", "<|im_end|>")
        write_tokenizer(
            model, kind(marks), model_type=model_type, chat_template=CHATML, bos_token="<s>", eos_token="</s>"
        )
        assert uses_tokenizer_as_it_is(model, URI)
        bare, reference = ModelTokenizer(model, URI), AutoTokenizer.from_pretrained(model)
        template = ChatTemplate(CHATML, bare.special_tokens)
        texts = [template.render(chat) for chat in CHATS]
        assert [list(encoding.ids) for encoding in bare.encode(texts)] == [
            expected_ids(reference, chat) for chat in CHATS
        ]
        assert bare.special_tokens == reference.special_tokens_map
        assert type(reference).__name__ == "TokenizersBackend"


def test_others_are_left_to_transformers(tmp_path: Path) -> None:
    plain = set()
    for name, make in MODELS.items():
        make(tmp_path / name)
        plain |= {name} if uses_tokenizer_as_it_is(tmp_path / name, URI) else set()
    assert plain == {"sound", "normalized-marks"}


def untrimmed(tokenizer: Any) -> Any:
    """Without the limits that were saved in it."""
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    return tokenizer


def test_marks_are_one_token(tmp_path: Path) -> None:
    for name in ("added-in-config", "additional", "extra", "map-adds"):
        model = tmp_path / name
        MODELS[name](model)
        assert {"<|im_start|>", "<|im_end|>"} <= set(load(model).added_tokens.values())


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("tokenizer.json", "version https://git-lfs.github.com/spec/v1\n", r"tokenizer\.json is a pointer of Git LFS"),
        (
            "tokenizer.json",
            '{"model": {"type": "Future"}}',
            "transformers .* cannot load the tokenizer of s3://models/tiny",
        ),
        (
            "tokenizer.json",
            '{"model": {"type": "BPE", "vocab": {"a": 0, ".": 2147483648}, "merges": []}, "added_tokens": []}',
            r"tokenizer\.json gives the token '\.' the id 2147483648",
        ),
        (
            "tokenizer.json",
            '{"model": {"vocab": {".": 2147483648}, "merges": []}, "added_tokens": [{"content": ".", "id": 0}]}',
            r"tokenizer\.json gives the token '\.' the id 2147483648",
        ),
        (
            "tokenizer.json",
            '{"model": {"vocab": {}, "merges": []}, "added_tokens": [{"content": "b", "id": 100000000}]}',
            r"tokenizer\.json gives the token 'b' the id 100000000",
        ),
        ("tokenizer_config.json", "\ufeff{}", r"tokenizer_config\.json begins with a byte order mark"),
        ("tokenizer_config.json", '{"a": 1,}', r"tokenizer_config\.json, line 1, column 9: not JSON"),
        ("special_tokens_map.json", "[]", r"special_tokens_map\.json holds an array"),
        ("generation_config.json", "{", r"generation_config\.json, line 1"),
        ("tokenizer_config.json", '{"eos_token": 3}', "cannot load the tokenizer"),
        ("tokenizer_config.json", '{"auto_map": {"AutoTokenizer": ["a.B", null]}}', "cannot load the tokenizer"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, file: str, content: str, words: str) -> None:
    model = write_tokenizer(tmp_path / "model", byte_level(("</s>",)))
    (model / file).write_text(content)
    with pytest.raises(BadInput, match=words) as error:
        load(model)
    assert error.value.reason == reasons.INVALID_MODEL


def test_missing_tokenizer(tmp_path: Path) -> None:
    model = write_tokenizer(tmp_path / "model", byte_level(("</s>",)))
    (model / "tokenizer.json").unlink()
    with pytest.raises(BadInput, match=r"has no tokenizer\.json"):
        load(model)
