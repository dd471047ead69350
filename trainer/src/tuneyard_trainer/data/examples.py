"""Examples: what a row of data becomes, whatever its file and its format."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

from tuneyard_api.contracts.artifact import canonical_json
from tuneyard_trainer.runtime.errors import BadInput, sentence

Key = bytes

KEY_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a chat."""

    role: str
    content: str
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further fields that the chat template reads, such as tool_calls."""

    def to_json(self) -> dict[str, Any]:
        return {"role": self.role, "content": self.content, **self.extra}

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> "Message":
        extra = {name: value for name, value in given.items() if name not in ("role", "content")}
        return cls(given["role"], given["content"], extra)


Messages = tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation; the assistant's messages are trained."""

    messages: Messages


@dataclass(frozen=True, slots=True)
class Text:
    """Plain text; all of it is trained."""

    text: str


@dataclass(frozen=True, slots=True)
class Preference:
    """Two answers to one prompt, of which the first is preferred."""

    prompt: Messages
    chosen: Messages
    rejected: Messages


Example = Chat | Text | Preference

# The fields of an example are text or messages, and tell its kind.
_KINDS: Final[dict[frozenset[str], Callable[..., Example]]] = {
    frozenset(item.name for item in fields(kind)): kind for kind in (Chat, Text, Preference)
}


def to_json(example: Example) -> dict[str, Any]:
    """The example as an object of its fields."""
    values = {item.name: getattr(example, item.name) for item in fields(example)}
    return {
        name: value if isinstance(value, str) else [message.to_json() for message in value]
        for name, value in values.items()
    }


def from_json(given: Mapping[str, Any]) -> Example:
    """The example that to_json was given."""
    values = {
        name: value if isinstance(value, str) else tuple(Message.from_json(message) for message in value)
        for name, value in given.items()
    }
    return _KINDS[frozenset(values)](**values)


def content(example: Example) -> Any:
    """What the example says, as JSON: the messages of a chat, or all fields of another kind."""
    given = to_json(example)
    return given["messages"] if isinstance(example, Chat) else given


def content_key(example: Example) -> Key:
    """16 bytes that are equal for examples with the same content."""
    return hashlib.sha256(canonical_json(content(example))).digest()[:KEY_BYTES]


class RowError(Exception):
    """What is wrong with one row; `at` adds where the row is."""

    def __init__(self, reason: str, message: str, advice: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.advice = advice

    def at(self, where: str) -> BadInput:
        """The stage's error: `where` is the URI and the line."""
        return BadInput(self.reason, f"{where}: {self.message}", sentence(self.advice))
