"""What a chat template leaves out is refused by name."""

import pytest

from support.tinymodel import TEMPLATE
from tuneyard_trainer.data.examples import Chat, Message, RowError
from tuneyard_trainer.data.template import ChatTemplate
from tuneyard_trainer.data.template_fields import TemplateFields

WHY, SO = Message("user", "Why?"), Message("assistant", "So.")
CALL = Message("assistant", "", {"tool_calls": [{"type": "function", "function": {"name": "now", "arguments": {}}}]})
RESULT = Message("tool", "9:00", {"name": "now"})
TOOL = {"type": "function", "function": {"name": "now"}}
CHATS = {
    "tools": Chat((WHY, SO), (TOOL,)),
    "tool_calls": Chat((WHY, CALL)),
    "messages of the role tool": Chat((WHY, RESULT, SO)),
    "messages of the role system": Chat((Message("system", "x"), WHY, SO)),
    "reasoning_content": Chat((WHY, Message("assistant", "So.", {"reasoning_content": "Hm."}))),
}
TWO_ROLES = (
    "{% for m in messages %}{% if m.role == 'user' %}<u>{{ m.content }}"
    "{% elif m.role == 'assistant' %}<a>{{ m.content }}{% endif %}{% endfor %}"
)
EVERYTHING = (
    "{{ tools | tojson if tools }}{% for m in messages %}<{{ m.role }}>{{ m.reasoning_content }}{{ m.content }}"
    "{{ m.tool_calls | tojson if m.tool_calls }}{% endfor %}"
)


@pytest.mark.parametrize(("field", "chat"), CHATS.items(), ids=CHATS)
def test_left_out(field: str, chat: Chat) -> None:
    with pytest.raises(RowError, match=f"the chat template leaves out {field}"):
        TemplateFields(ChatTemplate(TWO_ROLES, {})).require(chat)


@pytest.mark.parametrize("chat", CHATS.values(), ids=CHATS)
def test_shown(chat: Chat) -> None:
    TemplateFields(ChatTemplate(EVERYTHING, {})).require(chat)


def test_plain_chats_are_never_refused() -> None:
    for template in (TEMPLATE, TWO_ROLES):
        TemplateFields(ChatTemplate(template, {})).require(Chat((WHY, SO, WHY, SO)))


def test_a_template_refuses_system_texts_in_its_own_words() -> None:
    strict = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + TEMPLATE
    TemplateFields(ChatTemplate(strict, {})).require(CHATS["messages of the role system"])
