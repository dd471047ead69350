"""Examples: what a row of data becomes, whatever its file and its format."""

import hashlib
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

from tuneyard_api.contracts.artifact import canonical_json
from tuneyard_trainer.runtime.errors import BadInput, sentence

Key = bytes

KEY_BYTES: Final = 16
BLANKS: Final = "\t\n\v\f\r\x1c\x1d\x1e\x1f"
"""The white space of ASCII but for the space."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a chat."""

    role: str
    content: str
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further fields that the chat template reads, such as tool_calls."""
    trained: bool = True
    """False for an answer that is only context, such as one with the weight 0."""

    def to_json(self) -> dict[str, Any]:
        """What the chat template is given."""
        return {"role": self.role, "content": self.content, **self.extra}


Messages = tuple[Message, ...]
_UNTRAINED: Final = "untrained"
_ALWAYS: Final = ("role", "content")


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation; the assistant's messages are trained, except those that say otherwise."""

    messages: Messages
    tools: tuple[Mapping[str, Any], ...] = ()
    """The functions that the assistant may call, as the chat template is given them."""


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

    def chats(self) -> tuple[Chat, Chat]:
        """The prompt with the chosen answer, and with the rejected one."""
        return Chat((*self.prompt, *self.chosen)), Chat((*self.prompt, *self.rejected))


Example = Chat | Text | Preference

# The first field of an example tells its kind.
_KINDS: Final[dict[str, Callable[..., Example]]] = {"messages": Chat, "text": Text, "prompt": Preference}

_FIELDS: Final = {kind: tuple(item.name for item in fields(kind)) for kind in (Chat, Text, Preference)}


def to_json(example: Example) -> dict[str, Any]:
    """The example as an object of its fields; empty tools are left out."""
    values = ((name, getattr(example, name)) for name in _FIELDS[type(example)])
    return {name: _to_json(value) for name, value in values if name != "tools" or value}


def _to_json(value: Any) -> Any:
    if isinstance(value, str):
        return value
    return [_message_to_json(item) if isinstance(item, Message) else item for item in value]


def _message_to_json(message: Message) -> dict[str, Any]:
    return message.to_json() if message.trained else message.to_json() | {_UNTRAINED: True}


def from_json(given: Mapping[str, Any]) -> Example:
    """The example that to_json was given."""
    kind = _KINDS[next(iter(given))]
    return kind(**{name: _from_json(name, value) for name, value in given.items()})


def _from_json(name: str, value: Any) -> Any:
    if isinstance(value, str):
        return value
    return tuple(value if name == "tools" else map(_message_from_json, value))


def _message_from_json(given: Mapping[str, Any]) -> Message:
    if len(given) == len(_ALWAYS):
        return Message(given["role"], given["content"])
    extra = {name: value for name, value in given.items() if name not in (*_ALWAYS, _UNTRAINED)}
    return Message(given["role"], given["content"], extra, trained=_UNTRAINED not in given)


def content(example: Example) -> Any:
    """What the example says, as JSON: the messages of a chat without tools, or all fields."""
    given = to_json(example)
    return given["messages"] if given.keys() == {"messages"} else given


def content_key(example: Example) -> Key:
    """16 bytes that are equal for examples whose content differs in nothing but case and white space."""
    text = " \0 ".join(_parts(example))
    if text.isascii():
        normal = single_spaced(text.lower())
    else:
        normal = " ".join(unicodedata.normalize("NFC", text).casefold().split())
    return hashlib.sha256(normal.encode("utf-8", "surrogatepass")).digest()[:KEY_BYTES]


def single_spaced(text: str) -> str:
    """What " ".join(text.split()) makes of ASCII, in a third of the time."""
    for blank in BLANKS:
        text = text.replace(blank, " ")
    while "  " in text:
        text = text.replace("  ", " ")
    return text.strip(" ")


def _parts(example: Example) -> Iterator[str]:
    """All that an example says, in order, with what tells the parts apart."""
    if isinstance(example, Text):
        yield from ("text", example.text)
    elif isinstance(example, Chat):
        yield "chat"
        yield from _message_parts(example.messages)
        if example.tools:
            yield canonical_json(example.tools).decode()
    else:
        for messages in (example.prompt, example.chosen, example.rejected):
            yield "pair"
            yield from _message_parts(messages)


def _message_parts(messages: Messages) -> Iterator[str]:
    for message in messages:
        yield message.role
        yield message.content
        if message.extra or not message.trained:
            yield canonical_json([message.extra, message.trained]).decode()


class RowError(Exception):
    """What is wrong with one row; `at` adds where the row is."""

    def __init__(self, reason: str, message: str, advice: str, offset: str = "") -> None:
        """`offset` says where in the row, for example "column 5"."""
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.advice = advice
        self.offset = offset

    def __reduce__(self) -> tuple[type["RowError"], tuple[str, str, str, str]]:
        """So that it passes from one process to another."""
        return type(self), (self.reason, self.message, self.advice, self.offset)

    def at(self, where: object) -> BadInput:
        """The stage's error. `where` is the URI and the line."""
        place = f"{where}, {self.offset}" if self.offset else str(where)
        return BadInput(self.reason, f"{place}: {self.message}", sentence(self.advice))
