"""sharegpt: {"conversations": [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}]}."""

from collections.abc import Mapping
from typing import Any, Final

from tuneyard_trainer.data.examples import Chat
from tuneyard_trainer.data.formats.conversation import read_chat
from tuneyard_trainer.data.formats.fields import Fields

FIELDS: Final = ("conversations", "conversation")
SHAPE: Final = '{"conversations": [{"from", "value"}, ...]}'


def matches(fields: Mapping[str, Any]) -> bool:
    return any(name in fields for name in FIELDS)


def read(fields: Fields) -> Chat:
    return read_chat(fields, fields.first(FIELDS) or FIELDS[0])
