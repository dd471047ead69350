"""messages: OpenAI's chat rows, {"messages": [{"role": "user", "content": "..."}, ...]}."""

from collections.abc import Mapping
from typing import Any, Final

from tuneyard_trainer.data.examples import Chat
from tuneyard_trainer.data.formats.conversation import read_chat
from tuneyard_trainer.data.formats.fields import Fields

FIELD: Final = "messages"
SHAPE: Final = '{"messages": [{"role", "content"}, ...]}'


def matches(fields: Mapping[str, Any]) -> bool:
    return FIELD in fields


def read(fields: Fields) -> Chat:
    return read_chat(fields, FIELD)
