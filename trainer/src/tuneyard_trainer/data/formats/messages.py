"""messages: OpenAI's chat rows, {"messages": [{"role": "user", "content": "..."}, ...]}."""

from collections.abc import Mapping
from typing import Any, Final

from tuneyard_api import reasons
from tuneyard_trainer.data.examples import ROLES, Message, Messages, RowError, missing_answer, text_of

FIELD: Final = "messages"
SHAPE: Final = '{"messages": [{"role", "content"}, ...]}'


def matches(row: Mapping[str, Any]) -> bool:
    return FIELD in row


def read(row: Mapping[str, Any]) -> Messages:
    """The messages; the last one is the assistant's, none of the assistant's is empty."""
    given = row.get(FIELD)
    if not isinstance(given, list) or not given:
        raise RowError(reasons.INVALID_ROW, "the field messages is not a list with messages in it", f"Write {SHAPE}")
    messages = [_message(message, number) for number, message in enumerate(given, start=1)]
    for number, message in enumerate(messages, start=1):
        if message["role"] == "assistant" and not message["content"].strip():
            raise missing_answer(f"the assistant's message {number} is empty")
    if messages[-1]["role"] != "assistant":
        raise missing_answer(f"the last message is the {messages[-1]['role']}'s, not the assistant's")
    return messages


def _message(message: Any, number: int) -> Message:
    if not isinstance(message, dict):
        raise RowError(reasons.INVALID_ROW, f"message {number} is not an object", f"Write {SHAPE}")
    role = message.get("role")
    if role not in ROLES:
        raise RowError(
            reasons.INVALID_ROW, f"message {number} has the role {role!r}", f"The roles are {', '.join(ROLES)}"
        )
    return {"role": role, "content": text_of(message, "content")}
