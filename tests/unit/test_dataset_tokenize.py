"""Chats to tokens: what the assistant says is trained, its end-of-turn token included, and nothing else."""

import json
from pathlib import Path

import pytest
from jinja2 import TemplateError

from support.tinymodel import TEMPLATE, byte_tokenizer, write_model
from tuneyard_trainer.data.examples import RowError
from tuneyard_trainer.data.shards import IGNORED, TokenizedRow
from tuneyard_trainer.data.template import ChatTemplate
from tuneyard_trainer.data.tokenize import (
    RowTokenizer,
    find_template,
    labels,
    load_template,
    render,
    special_tokens,
    supervised,
    truncated,
)
from tuneyard_trainer.runtime.errors import BadInput

URI = "s3://models/tiny"
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Why?"},
    {"role": "assistant", "content": "So, ä."},
    {"role": "user", "content": "Really?"},
    {"role": "assistant", "content": "Yes."},
]
# Ends a turn with white space only.
PLAIN = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
# Shows what the assistant thought only in the last turn.
FORGETFUL = (
    "{% for m in messages %}<{{ m.role }}>"
    "{{ m.content if loop.last or m.role == 'user' else '(cut)' }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
# Llama 2's: asks without a generation prompt.
IMPLIED = (
    "{% for m in messages %}{% if m.role == 'assistant' %} {{ m.content }} </s>"
    "{% else %}[INST] {{ m.content }} [/INST]{% endif %}{% endfor %}"
)
# Asks for the answer in other words than it shows it.
UNLIKE = "{% for m in messages %}[{{ m.content }}]{% endfor %}{% if add_generation_prompt %}Answer now:{% endif %}"
STRICT = "{% if messages[0].role == 'system' %}{{ raise_exception('no system prompt, please') }}{% endif %}" + TEMPLATE


def spoken(template: str, chat: list[dict[str, str]] = CHAT) -> list[str]:
    rendered = render(ChatTemplate(template, {}), chat)
    return [rendered.text[start:end] for start, end in rendered.spans]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (TEMPLATE, ["So, ä.<|im_end|>", "Yes.<|im_end|>"]),
        (PLAIN, ["So, ä.\n", "Yes.\n"]),
        (FORGETFUL, ["Yes.</s>"]),
        (IMPLIED, [" So, ä. </s>", " Yes. </s>"]),
    ],
)
def test_spans_hold_what_the_assistant_says(template: str, expected: list[str]) -> None:
    assert spoken(template) == expected


def test_a_template_that_cannot_be_trained_is_refused() -> None:
    with pytest.raises(RowError, match="differently than it asks"):
        spoken(UNLIKE)


def test_messages_that_a_template_refuses_are_named() -> None:
    with pytest.raises(RowError, match="no system prompt, please"):
        spoken(STRICT)


def test_tokens_and_labels(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    tokens = RowTokenizer(model, load_template(model, None, URI), URI).tokenize(CHAT)
    tokenizer = byte_tokenizer()
    assert tokenizer.decode(tokens.input_ids, skip_special_tokens=False) == ChatTemplate(TEMPLATE, {}).render(CHAT)
    trained = [token for token in tokens.labels if token != IGNORED]
    assert tokenizer.decode(trained, skip_special_tokens=False) == "So, ä.<|im_end|>Yes.<|im_end|>"
    assert all(label in (IGNORED, token) for token, label in zip(*tokens, strict=True))


@pytest.mark.parametrize("answer", [" leading", "two\nlines\n\n", "Größe 🚀", "<|im_start|> in the text", "user\n"])
def test_the_answer_and_its_end_are_trained(tmp_path: Path, answer: str) -> None:
    model = write_model(tmp_path / "model")
    row = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": answer}]
    tokens = RowTokenizer(model, load_template(model, None, URI), URI).tokenize(row)
    trained = [token for token in tokens.labels if token != IGNORED]
    assert byte_tokenizer().decode(trained, skip_special_tokens=False) == f"{answer}<|im_end|>"


def test_a_token_on_the_edge_belongs_to_what_was_asked() -> None:
    assert labels([1, 2, 3, 4], [(0, 4), (4, 6), (6, 8), (8, 9)], [(5, 8)]) == [IGNORED, IGNORED, 3, IGNORED]
    # A token of no characters is of no one.
    assert labels([1, 2], [(5, 5), (5, 6)], [(5, 8)]) == [IGNORED, 2]


def test_the_first_token_is_never_trained() -> None:
    assert supervised(TokenizedRow([1, 2, 3], [1, IGNORED, 3])) == 1


def test_truncation_cuts_labels_too() -> None:
    assert truncated(TokenizedRow([1, 2, 3], [IGNORED, 2, 3]), 2) == TokenizedRow([1, 2], [IGNORED, 2])


def test_where_the_template_comes_from(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", template="configured")
    assert find_template(model, None) == "configured"
    (model / "chat_template.jinja").write_text("a file")
    assert find_template(model, None) == "a file"
    assert find_template(model, "given") == "given"
    several = {"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]}
    (model / "chat_template.jinja").unlink()
    (model / "tokenizer_config.json").write_text(json.dumps(several))
    assert find_template(model, None) == "d"
    (model / "tokenizer_config.json").unlink()
    assert find_template(model, None) is None


def test_special_tokens_are_text(tmp_path: Path) -> None:
    assert special_tokens(write_model(tmp_path / "model")) == {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}


def test_a_model_without_a_fast_tokenizer_is_named(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    (model / "tokenizer.json").unlink()
    with pytest.raises(BadInput, match=r"has no tokenizer\.json"):
        RowTokenizer(model, load_template(model, None, URI), URI)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ messages | tojson }}", '[{"role": "user", "content": "ä<"}]'),
        ("{{ bos_token }}{{ tools is none }}", "<s>True"),
        ("{% for m in messages %}{% break %}{% endfor %}x", "x"),
        ("{% generation %}{{ messages[0].content }}{% endgeneration %}", "ä<"),
        ("  {% if true %}\n  a\n{% endif %}\n", "  a\n"),
        ("{{ strftime_now('%d %b %Y') }}", "26 Jul 2024"),
    ],
)
def test_templates_mean_what_they_mean_to_transformers(template: str, expected: str) -> None:
    assert ChatTemplate(template, {"bos_token": "<s>"}).render([{"role": "user", "content": "ä<"}]) == expected


def test_a_template_cannot_reach_python() -> None:
    with pytest.raises(TemplateError):
        ChatTemplate("{{ ''.__class__.__mro__[1].__subclasses__() }}", {}).render([])
