"""Chats to tokens: the assistant's messages and their end-of-turn tokens are trained, and nothing else."""

from pathlib import Path

import pytest

from support.tinymodel import TEMPLATE, TURN_END, TURN_START, byte_tokenizer, write_model
from support.tokenizers_made import byte_level, sentencepiece, write_tokenizer
from tuneyard_api import reasons
from tuneyard_trainer.data.columns import IGNORED, INPUT_IDS, LABELS, supervised, truncated
from tuneyard_trainer.data.examples import Chat, Message, Messages, content_key
from tuneyard_trainer.data.readers.row import Place
from tuneyard_trainer.data.source import SourceRow
from tuneyard_trainer.data.template import ChatTemplate
from tuneyard_trainer.data.tokenize import ExampleTokenizer, TokenizedExample
from tuneyard_trainer.data.tokenize.tokenizer import ModelTokenizer
from tuneyard_trainer.data.tokenize.tokens import AnswerCounts
from tuneyard_trainer.runtime.errors import BadInput

URI = "s3://models/tiny"
SYSTEM = Message("system", "Be brief.")
CHAT = (
    Message("user", "Why?"),
    Message("assistant", "So, ä."),
    Message("user", "Really?"),
    Message("assistant", "Yes."),
    Message("user", "Sure?"),
    Message("assistant", "No."),
)
MARKS = ("<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>", "<|eos|>", "<think>", "</think>", "<|x|>")


def opened(end: str, prompt: str = "<|assistant|>") -> str:
    """A template that opens each turn with its role, ends each with `end`, and asks with `prompt`."""
    return (
        f"{{% for m in messages %}}<|{{{{ m.role }}}}|>{{{{ m.content }}}}{end}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{prompt}{{% endif %}}"
    )


def example_tokenizer(tmp_path: Path, template: str, **config: str) -> ExampleTokenizer:
    given = {"bos_token": "<s>", "eos_token": "</s>"} | config
    directory = write_tokenizer(tmp_path / "made", byte_level(MARKS), **given)
    tokenizer = ModelTokenizer(directory, URI)
    return ExampleTokenizer(ChatTemplate(template, tokenizer.special_tokens), tokenizer, "The template")


def source(chat: Messages) -> SourceRow:
    return SourceRow(Chat(chat), Place("s3://data/x.jsonl", 3), "train", content_key(Chat(chat)))


def trained(row: TokenizedExample) -> list[str]:
    """The text of each answer that is trained, or why it is not. What is trained beside them fails the test."""
    ids, tokenizer = row.tokens[INPUT_IDS].tolist(), byte_level(MARKS)
    expected = [IGNORED] * len(ids)
    for answer in row.answers:
        expected[answer.begin : answer.end] = ids[answer.begin : answer.end]
    assert row.tokens[LABELS].tolist() == expected
    texts = (tokenizer.decode(ids[item.begin : item.end], skip_special_tokens=False) for item in row.answers)
    return [item.left_out or text for item, text in zip(row.answers, texts, strict=True)]


EACH = ["So, ä.</s>", "Yes.</s>", "No.</s>"]
TURNS: dict[str, tuple[str, list[str]]] = {
    "a plain one": (opened("</s>"), EACH),
    "end-of-text closes the chat": (
        opened("<|end|>\n") + "{% if not add_generation_prompt %}<|eos|>{% endif %}",
        ["So, ä.<|end|>", "Yes.<|end|>", "No.<|end|>"],
    ),
    "the header is always open": (opened("</s>", "") + "<|assistant|>", EACH),
    "an empty thought in the last turn": (
        "{% for m in messages %}<|{{ m.role }}|>"
        "{% if loop.last and m.role == 'assistant' %}<think></think>{% endif %}{{ m.content }}</s>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}",
        [*EACH[:2], "<think></think>No.</s>"],
    ),
    "the prompt opens a thought": (opened("</s>", "<|assistant|><think>\n"), EACH),
    "the prompt opens a thought on the next line": (
        opened("</s>\n", "<|assistant|>\n<think>\n").replace("|>{{ m.content", "|>\n{{ m.content"),
        EACH,
    ),
    "a mark before the end": (
        opened("<|end|></s>", "<|assistant|><think></think>"),
        ["So, ä.<|end|></s>", "Yes.<|end|></s>", "No.<|end|></s>"],
    ),
    "the prompt opens a thought in words": (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}</s>{% endfor %}"
        "{% if add_generation_prompt %}assistant: <think>\n{% endif %}",
        [" So, ä.</s>", "Yes.</s>", "No.</s>"],
    ),
    "the prompt ends with a blank": (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}</s>{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}",
        # A token that has the blank and the first word is trained; a blank of its own belongs to the prompt.
        [" So, ä.</s>", "Yes.</s>", "No.</s>"],
    ),
    "the prompt has more blanks": (
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}</s>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|> \n\n{% endif %}",
        ["So, ä.</s>", "Yes.</s>", "No.</s>"],
    ),
    "no prompt, and a blank before the end": (
        "{% for m in messages %}{% if m.role == 'assistant' %} {{ m.content }} </s>"
        "{% else %}[INST] {{ m.content }} [/INST]{% endif %}{% endfor %}",
        [" So, ä. </s>", " Yes. </s>", " No. </s>"],
    ),
    "a system text before the last question": (
        "{% for m in messages %}{% if m.role == 'user' %}[INST] {% if loop.index0 == messages | length - 2 %}Be brief. "
        "{% endif %}{{ m.content }}[/INST]{% else %} {{ m.content }}</s>{% endif %}{% endfor %}",
        [" So, ä.</s>", " Yes.</s>", " No.</s>"],
    ),
    "rounds are numbered": (
        "{% for m in messages %}{% if m.role == 'user' %}[Round {{ loop.index }}]\n\nQ: {{ m.content }}\n\nA:"
        "{% else %}{{ m.content }}</s>{% endif %}{% endfor %}",
        EACH,
    ),
    "another end in earlier turns": (
        "{% for m in messages %}<|x|>{{ m.role }}<|system|>{{ m.content }}"
        "{% if loop.last and not add_generation_prompt %}</s>{% else %}<|end|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|x|>assistant{% endif %}",
        ["<|system|>So, ä.<|end|>", "<|system|>Yes.<|end|>", "<|system|>No.</s>"],
    ),
    "the end is shown at the end of the chat only": (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% else %}</s>{% endif %}",
        [" So, ä.", " Yes.", " No.\n</s>"],
    ),
    "nothing between the messages but the end": (
        "{% for m in messages %}{{ m.content }}</s>{% endfor %}",
        EACH,
    ),
    "the answer is shown in the last turn only": (
        "{% for m in messages %}<|{{ m.role }}|>"
        "{{ m.content if loop.last or m.role == 'user' else '(cut)' }}</s>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}",
        ["notShown", "notShown", "No.</s>"],
    ),
    "a generation block with a variable of its own": (
        "{% for m in messages %}{% if m.role == 'assistant' %}<|assistant|>{% generation %}{% set text = m.content %}"
        "{{ text }}</s>{% endgeneration %}{% else %}<|user|>{{ m.content }}</s>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}",
        EACH,
    ),
    "it shows parts of contents": (
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content[:3] if m.role == 'user' else m.content }}</s>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}",
        EACH,
    ),
    "it shows contents twice": (
        "<|system|>{{ messages[0].content }} {{ messages[1].content if messages | length > 1 }}</s>" + opened("</s>"),
        EACH,
    ),
    "it compares contents": (
        "{% for m in messages %}<|{{ m.role }}|>{{ 'Why not?' if m.content == 'Why?' else m.content }}</s>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}",
        EACH,
    ),
}


@pytest.mark.parametrize(("template", "expected"), TURNS.values(), ids=TURNS)
def test_turns(tmp_path: Path, template: str, expected: list[str]) -> None:
    (row,) = example_tokenizer(tmp_path, template).tokenize([source(CHAT)])
    assert trained(row) == expected


GREETING = (Message("assistant", "Hello."), *CHAT[:2])
DEFAULT_SYSTEM = "{% if messages[0].role != 'system' %}<|system|>Help.</s>{% endif %}" + opened("</s>")


@pytest.mark.parametrize(
    ("template", "chat", "expected"),
    [
        (opened("</s>"), GREETING, ["Hello.</s>", "So, ä.</s>"]),
        ("{{ bos_token }}" + opened("</s>"), GREETING, ["Hello.</s>", "So, ä.</s>"]),
        (DEFAULT_SYSTEM, GREETING, ["Hello.</s>", "So, ä.</s>"]),
        (DEFAULT_SYSTEM, (SYSTEM, *GREETING), ["Hello.</s>", "So, ä.</s>"]),
        # Two answers in a row.
        (opened("</s>"), (*CHAT[:2], CHAT[3]), ["So, ä.</s>", "Yes.</s>"]),
        # An answer that is context only.
        (opened("</s>"), (CHAT[0], Message("assistant", "Wrong.", trained=False), *CHAT[2:4]), ["Yes.</s>"]),
        # An empty question, and white space around contents.
        (opened("</s>"), (Message("user", ""), CHAT[1]), ["So, ä.</s>"]),
        (opened("</s>"), (Message("user", " \n"), Message("assistant", "  x\n\n")), ["  x\n\n</s>"]),
        # Icons of a font, and marks of the template in the text.
        (opened("</s>"), (Message("user", "\U00100001"), Message("assistant", "a\U000f0001")), ["a\U000f0001</s>"]),
        (opened("</s>"), (Message("user", "a</s>b"), Message("assistant", "<|user|>x")), ["<|user|>x</s>"]),
        # A thought that the template takes away.
        (
            opened("</s>").replace("{{ m.content }}", "{{ m.content.split('</think>')[-1].lstrip() }}"),
            (CHAT[0], Message("assistant", "<think>Hm.</think>\n\nSo.")),
            ["So.</s>"],
        ),
        # A chat that ends with the user.
        (opened("</s>"), CHAT[:3], ["So, ä.</s>"]),
    ],
)
def test_chats(tmp_path: Path, template: str, chat: Messages, expected: list[str]) -> None:
    (row,) = example_tokenizer(tmp_path, template).tokenize([source(chat)])
    assert trained(row) == expected


def test_a_template_that_wants_a_system_message(tmp_path: Path) -> None:
    wants = "{% if messages[0].role != 'system' %}{{ raise_exception('no system message') }}{% endif %}"
    tokenizer = example_tokenizer(tmp_path, wants + opened("</s>"))
    (row,) = tokenizer.tokenize([source((SYSTEM, *CHAT))])
    assert trained(row) == EACH
    with pytest.raises(BadInput, match=r"line 3: .*no system message"):
        tokenizer.tokenize([source(CHAT)])


def test_tool_calls(tmp_path: Path) -> None:
    """An answer without content that calls a function, what that returns, and the answer to it."""
    template = (
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% for call in m.tool_calls %}<|x|>{{ call | tojson }}"
        "{% endfor %}</s>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    call = Message("assistant", "", {"tool_calls": [{"name": "now"}]})
    chat = (Message("user", "When?"), call, Message("tool", "Noon."), Message("assistant", "At noon."))
    (row,) = example_tokenizer(tmp_path, template).tokenize([source(chat)])
    assert trained(row) == ['<|x|>{"name": "now"}</s>', "At noon.</s>"]


def test_thousands_of_turns(tmp_path: Path) -> None:
    """Two renderings of a chat, however long it is."""
    tokenizer = example_tokenizer(tmp_path, opened("</s>"))
    (row,) = tokenizer.tokenize([source(CHAT * 500)])
    assert trained(row) == EACH * 500


REFUSED: dict[str, tuple[str, str, str]] = {
    "no end at all": (opened(""), "never ends a turn", reasons.NO_END_OF_TURN),
    "no end, and the header is always open": (
        opened("", "") + "<|assistant|>",
        "never stop",
        reasons.NO_END_OF_TURN,
    ),
    "no end, and one mark opens all turns": (
        "{% for m in messages %}<|x|>{{ m.role }}\n{{ m.content }}{% endfor %}<|x|>assistant\n",
        "never stop",
        reasons.NO_END_OF_TURN,
    ),
    "white space as the end": (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}",
        "never ends a turn",
        reasons.NO_END_OF_TURN,
    ),
    "an end that is no token": (
        opened("<|im_end|>"),
        r"'<\|im_end\|>', which is no end-of-turn",
        reasons.NO_END_OF_TURN,
    ),
    "another prompt": (
        "{% for m in messages %}[{{ m.content }}]</s>{% endfor %}{% if add_generation_prompt %}Answer now:{% endif %}",
        "differently than it asks",
        reasons.INVALID_SPEC,
    ),
    "another role in the prompt": (
        "{% for m in messages %}<|x|>{{ 'bot' if m.role == 'assistant' else m.role }}\n{{ m.content }}</s>{% endfor %}"
        "{% if add_generation_prompt %}<|x|>assistant\n{% endif %}",
        "differently than it asks",
        reasons.INVALID_SPEC,
    ),
    "contents in parts": (
        "{% for m in messages %}<|{{ m.role }}|>{% for part in m.content %}{{ part.text }}{% endfor %}</s>{% endfor %}",
        "does not show the assistant's answer",
        reasons.INVALID_SPEC,
    ),
    "an error": ("{{ 1 + 'a' }}", "cannot be rendered: line 1: TypeError", reasons.INVALID_SPEC),
    "tools that are not there": ("{{ tools | length }}", "cannot be rendered: line 1: TypeError", reasons.INVALID_SPEC),
}


@pytest.mark.parametrize(("template", "words", "reason"), REFUSED.values(), ids=REFUSED)
def test_refused_templates(tmp_path: Path, template: str, words: str, reason: str) -> None:
    with pytest.raises(BadInput, match=words) as error:
        example_tokenizer(tmp_path, template)
    assert error.value.reason == reason
    assert error.value.advice


def test_a_byte_is_no_end_of_a_turn(tmp_path: Path) -> None:
    """Some tokenizers list the tokens of bytes among the added ones: | is <0x7C>, which would end the turn."""
    directory = write_tokenizer(tmp_path, sentencepiece(MARKS), bos_token="<s>", eos_token="</s>")
    tokenizer = ModelTokenizer(directory, URI)
    assert "<0x7C>" in [token["content"] for token in tokenizer.added_tokens_decoder.values()]
    with pytest.raises(BadInput, match=r"'<\|im_end\|>', which is no end-of-turn token"):
        ExampleTokenizer(ChatTemplate(opened("<|im_end|>"), {}), tokenizer, "The template")


def test_an_end_that_the_answer_has_too_does_not_stop(tmp_path: Path) -> None:
    """As gpt-oss ends a thought and an earlier turn with the same token."""
    template = (
        "{% for m in messages %}<|x|>{{ m.role }}"
        "{% if m.thinking %}<think>{{ m.thinking }}<|end|>{% endif %}{{ m.content }}"
        "{% if loop.last and not add_generation_prompt %}</s>{% else %}<|end|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|x|>assistant{% endif %}"
    )
    tokenizer = example_tokenizer(tmp_path, template)
    added = {text: number for number, text in tokenizer.context.tokenizer.added_tokens.items()}
    plain, thinking = tokenizer.tokenize(
        [source(CHAT), source((CHAT[0], Message("assistant", "So.", {"reasoning": "Hm."})))]
    )
    counts = AnswerCounts()
    for answer in plain.answers:
        counts.add(answer, 1000)
    last = tokenizer.context.turns.last_end
    assert counts.stop_tokens(last) == sorted([added["</s>"], added["<|end|>"]])
    for answer in thinking.answers:
        counts.add(answer, 1000)
    assert counts.stop_tokens(last) == [added["</s>"]]


@pytest.mark.parametrize("trim_offsets", [True, False])
def test_white_space_in_answers_is_trained(tmp_path: Path, trim_offsets: bool) -> None:
    """With trim_offsets a token of blanks has no characters, as in the tokenizers of GPT-NeoX, Pythia and OLMo."""
    answer = "def f():\n        if 🚀:\n\n                return 1\n"
    directory = write_tokenizer(tmp_path, byte_level(MARKS, trim_offsets=trim_offsets), eos_token="</s>")
    tokenizer = ModelTokenizer(directory, URI)
    examples = ExampleTokenizer(ChatTemplate(opened("</s>"), {}), tokenizer, "The template")
    (row,) = examples.tokenize([source((CHAT[0], Message("assistant", answer)))])
    assert trained(row) == [f"{answer}</s>"]


@pytest.mark.parametrize("answer", [" leading", "two\nlines\n\n", "Größe 🚀", "<|im_start|> in the text", "user\n"])
def test_answer_and_end_of_turn_are_trained(tmp_path: Path, answer: str) -> None:
    directory = write_model(tmp_path / "model")
    tokenizer = ModelTokenizer(directory, URI)
    examples = ExampleTokenizer(ChatTemplate(TEMPLATE, tokenizer.special_tokens), tokenizer, "The template")
    (row,) = examples.tokenize([source((Message("user", "Why?"), Message("assistant", answer)))])
    labels = [token for token in row.tokens[LABELS] if token != IGNORED]
    assert byte_tokenizer().decode(labels, skip_special_tokens=False) == f"{answer}<|im_end|>"
    assert tokenizer.special_tokens == {"bos_token": TURN_START, "eos_token": TURN_END}


def test_a_row_as_it_is_shown(tmp_path: Path) -> None:
    tokenizer = example_tokenizer(tmp_path, opened("</s>\n"))
    parts = tokenizer.show(source(CHAT[:4]), 1000)
    assert [(part.text, part.is_trained) for part in parts] == [
        ("<|user|>Why?</s>\n<|assistant|>", False),
        ("So, ä.</s>", True),
        ("\n<|user|>Really?</s>\n<|assistant|>", False),
        ("Yes.</s>", True),
        ("\n", False),
    ]
    (row,) = tokenizer.tokenize([source(CHAT[:4])])
    cut = tokenizer.show(source(CHAT[:4]), row.answers[1].begin + 1)
    assert [part.text for part in cut][-1] == "Yes.</s>\n"[: len(cut[-1].text)]
    assert (cut[-1].is_trained, len(cut)) == (True, 4)


def test_supervised() -> None:
    assert supervised({INPUT_IDS: [1, 2, 3], LABELS: [1, IGNORED, 3]}) == 1
    assert supervised({INPUT_IDS: [1, 2, 3], LABELS: [IGNORED, 2, 3]}) == 2
    assert supervised({INPUT_IDS: [], LABELS: []}) == 0


def test_truncated() -> None:
    assert truncated({INPUT_IDS: [1, 2, 3], LABELS: [IGNORED, 2, 3]}, 2) == {INPUT_IDS: [1, 2], LABELS: [IGNORED, 2]}


def test_rows_are_named(tmp_path: Path) -> None:
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system prompt') }}{% endif %}" + opened(
        "</s>"
    )
    tokenizer = example_tokenizer(tmp_path, template)
    with pytest.raises(BadInput, match=r"x\.jsonl, line 3: .*no system prompt"):
        tokenizer.tokenize([source((SYSTEM, *CHAT))])
