"""Chats to tokens: the assistant's messages and their end-of-turn tokens are trained, and nothing else."""

import json
from pathlib import Path

import pytest
from jinja2 import TemplateError

from support.tinymodel import TEMPLATE, byte_tokenizer, write_model
from tuneyard_trainer.data.columns import IGNORED, INPUT_IDS, LABELS, TokenizedRow, supervised, truncated
from tuneyard_trainer.data.examples import Chat, Message, Messages, RowError, content_key
from tuneyard_trainer.data.source import SourceRow
from tuneyard_trainer.data.template import ChatTemplate, find_template, load_template, special_tokens
from tuneyard_trainer.data.tokenize import ExampleTokenizer, tokenize_rows
from tuneyard_trainer.data.tokenize.chat import labels, render
from tuneyard_trainer.runtime.errors import BadInput

URI = "s3://models/tiny"
CHAT = (
    Message("system", "Be brief."),
    Message("user", "Why?"),
    Message("assistant", "So, ä."),
    Message("user", "Really?"),
    Message("assistant", "Yes."),
)
# Ends a turn with white space only.
PLAIN = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
# Renders the assistant's reasoning only in the last turn.
LAST_TURN_ONLY = (
    "{% for m in messages %}<{{ m.role }}>"
    "{{ m.content if loop.last or m.role == 'user' else '(cut)' }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
# Llama 2's template has no generation prompt.
NO_PROMPT = (
    "{% for m in messages %}{% if m.role == 'assistant' %} {{ m.content }} </s>"
    "{% else %}[INST] {{ m.content }} [/INST]{% endif %}{% endfor %}"
)
# The generation prompt is not the beginning of the assistant's turn.
OTHER_PROMPT = (
    "{% for m in messages %}[{{ m.content }}]{% endfor %}{% if add_generation_prompt %}Answer now:{% endif %}"
)
STRICT = "{% if messages[0].role == 'system' %}{{ raise_exception('no system prompt, please') }}{% endif %}" + TEMPLATE


def assistant_spans(template: str, chat: Messages = CHAT) -> list[str]:
    rendered = render(ChatTemplate(template, {}), chat)
    return [rendered.text[start:end] for start, end in rendered.spans]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (TEMPLATE, ["So, ä.<|im_end|>", "Yes.<|im_end|>"]),
        (PLAIN, ["So, ä.\n", "Yes.\n"]),
        (LAST_TURN_ONLY, ["Yes.</s>"]),
        (NO_PROMPT, [" So, ä. </s>", " Yes. </s>"]),
    ],
)
def test_assistant_spans(template: str, expected: list[str]) -> None:
    assert assistant_spans(template) == expected


def test_untrainable_template() -> None:
    with pytest.raises(RowError, match="differently than it asks"):
        assistant_spans(OTHER_PROMPT)


def test_template_rejects_messages() -> None:
    with pytest.raises(RowError, match="no system prompt, please"):
        assistant_spans(STRICT)


def tokenize(model: Path, chat: Messages) -> TokenizedRow:
    return ExampleTokenizer(model, load_template(model, None, URI), URI).tokenize(Chat(chat))


def test_tokens_and_labels(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    tokens = tokenize(model, CHAT)
    tokenizer = byte_tokenizer()
    assert tokenizer.decode(tokens[INPUT_IDS], skip_special_tokens=False) == ChatTemplate(TEMPLATE, {}).render(CHAT)
    trained = [token for token in tokens[LABELS] if token != IGNORED]
    assert tokenizer.decode(trained, skip_special_tokens=False) == "So, ä.<|im_end|>Yes.<|im_end|>"
    assert all(label in (IGNORED, token) for token, label in zip(tokens[INPUT_IDS], tokens[LABELS], strict=True))


@pytest.mark.parametrize("answer", [" leading", "two\nlines\n\n", "Größe 🚀", "<|im_start|> in the text", "user\n"])
def test_answer_and_end_of_turn_are_trained(tmp_path: Path, answer: str) -> None:
    model = write_model(tmp_path / "model")
    tokens = tokenize(model, (Message("user", "Why?"), Message("assistant", answer)))
    trained = [token for token in tokens[LABELS] if token != IGNORED]
    assert byte_tokenizer().decode(trained, skip_special_tokens=False) == f"{answer}<|im_end|>"


def test_token_across_a_boundary() -> None:
    assert labels([1, 2, 3, 4], [(0, 4), (4, 6), (6, 8), (8, 9)], [(5, 8)]) == [IGNORED, IGNORED, 3, IGNORED]
    # A token without characters is never trained.
    assert labels([1, 2], [(5, 5), (5, 6)], [(5, 8)]) == [IGNORED, 2]


def test_supervised() -> None:
    assert supervised({INPUT_IDS: [1, 2, 3], LABELS: [1, IGNORED, 3]}) == 1


def test_truncated() -> None:
    assert truncated({INPUT_IDS: [1, 2, 3], LABELS: [IGNORED, 2, 3]}, 2) == {INPUT_IDS: [1, 2], LABELS: [IGNORED, 2]}


def test_find_template(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", template="configured")
    assert find_template(model, None, URI) == "configured"
    (model / "chat_template.jinja").write_text("a file")
    assert find_template(model, None, URI) == "a file"
    assert find_template(model, "given", URI) == "given"
    several = {"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]}
    (model / "chat_template.jinja").unlink()
    (model / "tokenizer_config.json").write_text(json.dumps(several))
    assert find_template(model, None, URI) == "d"
    (model / "tokenizer_config.json").unlink()
    assert find_template(model, None, URI) is None


def test_special_tokens(tmp_path: Path) -> None:
    assert special_tokens(write_model(tmp_path / "model"), URI) == {
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
    }


def test_missing_tokenizer(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    (model / "tokenizer.json").unlink()
    with pytest.raises(BadInput, match=r"has no tokenizer\.json"):
        ExampleTokenizer(model, load_template(model, None, URI), URI)


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
def test_template_like_transformers(template: str, expected: str) -> None:
    assert ChatTemplate(template, {"bos_token": "<s>"}).render([Message("user", "ä<")]) == expected


def test_template_sandbox() -> None:
    with pytest.raises(TemplateError):
        ChatTemplate("{{ ''.__class__.__mro__[1].__subclasses__() }}", {}).render([])


def test_template_sees_further_fields() -> None:
    message = Message("assistant", "", {"tool_calls": [{"name": "add"}]})
    assert ChatTemplate("{{ messages[0].tool_calls[0].name }}", {}).render([message]) == "add"


def test_tokenize_rows_names_the_row(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", template=STRICT)
    tokenizer = ExampleTokenizer(model, load_template(model, None, URI), URI)
    rows = [SourceRow(Chat(chat), "s3://data/x.jsonl, line 3", "train", content_key(Chat(chat))) for chat in (CHAT,)]
    with pytest.raises(BadInput, match=r"x\.jsonl, line 3: .*no system prompt"):
        list(tokenize_rows(rows, tokenizer))
