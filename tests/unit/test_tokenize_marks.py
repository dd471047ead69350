"""Where contents are in a rendered chat: found at once where that is certain, else by marks."""

import random
from typing import Any

import pytest

from support.families import FAMILIES, TEMPLATES, random_chat
from tuneyard_trainer.data.examples import Message, Messages
from tuneyard_trainer.data.template import ChatTemplate
from tuneyard_trainer.data.tokenize import marks
from tuneyard_trainer.data.tokenize.marks import Places, locate

PLAIN = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
QUESTION, ANSWER = Message("user", "What is a ConfigMap?"), Message("assistant", "It holds settings as text.")


def by_marks(template: ChatTemplate, chat: Messages, monkeypatch: pytest.MonkeyPatch) -> Places:
    with monkeypatch.context() as patched:
        patched.setattr(marks, "UNMISTAKABLE", 2**31)
        return locate(template, chat)


def renders(template: ChatTemplate, chat: Messages, monkeypatch: pytest.MonkeyPatch) -> int:
    """How often the chat is rendered to find its contents."""
    rendered: list[str] = []

    def render(*given: Any, **named: Any) -> str:
        rendered.append(ChatTemplate.render(template, *given, **named))
        return rendered[-1]

    with monkeypatch.context() as patched:
        patched.setattr(template, "render", render)
        locate(template, chat)
    return len(rendered)


@pytest.mark.parametrize("name", FAMILIES)
def test_places_are_those_of_the_marks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    family = FAMILIES[name]
    template = ChatTemplate(
        (TEMPLATES / f"{name}.jinja").read_text(), {"bos_token": family.bos, "eos_token": family.eos}
    )
    chance = random.Random(name)  # noqa: S311
    at_once = 0
    for _ in range(100):
        chat = random_chat(chance, has_system=family.has_system)
        assert locate(template, chat) == by_marks(template, chat, monkeypatch)
        at_once += renders(template, chat, monkeypatch) == 1
    assert at_once, "some contents are long, and stand there once"


CERTAIN = {
    "a question and its answer": (QUESTION, ANSWER),
    "an empty answer": (QUESTION, Message("assistant", " \n")),
    "white space around": (Message("user", f"\n{QUESTION.content}  "), ANSWER),
}
UNCERTAIN = {
    "a short content": (Message("user", "Why?"), ANSWER),
    "an answer that is quoted": (QUESTION, ANSWER, Message("user", f"You said: {ANSWER.content}"), ANSWER),
    "an answer that was asked for": (Message("user", f"Say: {ANSWER.content}"), ANSWER),
    "the same twice": (QUESTION, ANSWER, QUESTION, ANSWER),
    "a call beside the text": (QUESTION, Message("assistant", ANSWER.content, {"tool_calls": []})),
}


@pytest.mark.parametrize("chat", [*CERTAIN.values(), *UNCERTAIN.values()], ids=[*CERTAIN, *UNCERTAIN])
def test_only_what_is_certain_is_rendered_once(chat: Messages, monkeypatch: pytest.MonkeyPatch) -> None:
    template = ChatTemplate(PLAIN, {})
    assert renders(template, chat, monkeypatch) == (1 if chat in CERTAIN.values() else 2)
    assert locate(template, chat) == by_marks(template, chat, monkeypatch)


def test_an_answer_that_is_left_out_is_not_found_in_a_later_message(monkeypatch: pytest.MonkeyPatch) -> None:
    template = ChatTemplate("{% for m in messages if m.role == 'user' %}<{{ m.content }}>{% endfor %}", {})
    chat = (QUESTION, ANSWER, Message("user", f"You said: {ANSWER.content}"))
    assert 1 not in locate(template, chat).ends
    assert locate(template, chat) == by_marks(template, chat, monkeypatch)


def test_an_answer_that_is_shown_twice_counts_where_it_is_shown_last(monkeypatch: pytest.MonkeyPatch) -> None:
    template = ChatTemplate(PLAIN.replace("{{ m.content }}", "{{ m.content }}|{{ m.content }}"), {})
    chat = (QUESTION, ANSWER)
    assert renders(template, chat, monkeypatch) == 2
    places = locate(template, chat)
    assert places == by_marks(template, chat, monkeypatch)
    assert places.begins[1] == places.text.rindex(ANSWER.content)
