"""messages: OpenAI's chat rows, {"messages": [{"role": "user", "content": "..."}, ...]}."""

from collections.abc import Mapping
from typing import Any, Final

from tuneyard_api import reasons
from tuneyard_trainer.data.examples import Chat, Message, RowError
from tuneyard_trainer.data.formats.fields import missing_answer, text_of

FIELD: Final = "messages"
ROLES: Final = ("system", "user", "assistant")
SHAPE: Final = '{"messages": [{"role", "content"}, ...]}'


def matches(fields: Mapping[str, Any]) -> bool:
    return FIELD in fields


def read(fields: Mapping[str, Any]) -> Chat:
    """The last message is the assistant's, and no message of the assistant is empty."""
    given = fields.get(FIELD)
    if not isinstance(given, list) or not given:
        raise RowError(reasons.INVALID_ROW, "the field messages is not a list with messages in it", f"Write {SHAPE}")
    messages = tuple(_message(message, number) for number, message in enumerate(given, start=1))
    for number, message in enumerate(messages, start=1):
        if message.role == "assistant" and not message.content.strip():
            raise missing_answer(f"the assistant's message {number} is empty")
    if messages[-1].role != "assistant":
        raise missing_answer(f"the last message is the {messages[-1].role}'s, not the assistant's")
    return Chat(messages)


def _message(given: Any, number: int) -> Message:
    if not isinstance(given, dict):
        raise RowError(reasons.INVALID_ROW, f"message {number} is not an object", f"Write {SHAPE}")
    role = given.get("role")
    if role not in ROLES:
        raise RowError(
            reasons.INVALID_ROW, f"message {number} has the role {role!r}", f"The roles are {', '.join(ROLES)}"
        )
    return Message(role, text_of(given, "content"))
