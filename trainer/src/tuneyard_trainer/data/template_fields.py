"""What a chat template shows beside the text of user and assistant; what it would leave out is refused by name."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from jinja2 import TemplateError

from tuneyard_api import reasons
from tuneyard_trainer.data.examples import Chat, Example, Message, Preference, RowError
from tuneyard_trainer.data.formats.turns import THOUGHT
from tuneyard_trainer.data.source import KnownRow
from tuneyard_trainer.data.template import ChatTemplate

MARK: Final = "tuneyardprobe"
"""Text that stands nowhere in a template."""

_USER: Final = Message("user", "a")
_ANSWER: Final = Message("assistant", "b")
_TOOL: Final = {
    "type": "function",
    "function": {"name": MARK, "description": "c", "parameters": {"type": "object", "properties": {}}},
}
_CALLING: Final = Message(
    "assistant",
    "",
    {"tool_calls": [{"id": "abcdefghi", "type": "function", "function": {"name": MARK, "arguments": {}}}]},
)
_OTHER_CALL: Final = replace(
    _CALLING,
    extra={"tool_calls": [{"id": "abcdefghi", "type": "function", "function": {"name": "d", "arguments": {}}}]},
)
_RESULT: Final = Message("tool", MARK, {"name": "d", "tool_call_id": "abcdefghi"})

# A chat for each field, and the tools beside it: a template that shows the field shows the mark.
_PROBES: Final[dict[str, tuple[tuple[Message, ...], tuple[Mapping[str, Any], ...]]]] = {
    "tools": ((_USER, _ANSWER), (_TOOL,)),
    "tool_calls": ((_USER, _CALLING), ()),
    "messages of the role tool": ((_USER, _OTHER_CALL, _RESULT, _ANSWER), ()),
    "messages of the role system": ((Message("system", MARK), _USER, _ANSWER), ()),
    THOUGHT: ((_USER, replace(_ANSWER, extra={THOUGHT: MARK})), ()),
}


class TemplateFields:
    """Asks a chat template, once for each field, whether it shows it."""

    def __init__(self, template: ChatTemplate) -> None:
        self._template = template
        self._shown: dict[str, bool] = {}

    def shows(self, field: str) -> bool:
        if field not in self._shown:
            messages, tools = _PROBES[field]
            try:
                self._shown[field] = MARK in self._template.render(messages, tools)
            except TemplateError:
                # A template that rejects system texts says so itself, in better words.
                self._shown[field] = field == "messages of the role system"
        return self._shown[field]

    def require(self, chat: Chat) -> None:
        """Raises RowError when the template would leave something of the chat out in silence."""
        for field in _fields(chat):
            if not self.shows(field):
                raise _not_shown(field)


def require_shown(
    rows: Iterable[KnownRow], template: ChatTemplate, on_error: Callable[[RowError, KnownRow], None]
) -> Iterator[KnownRow]:
    """The rows that the template shows whole; those of which it would leave something out are given to `on_error`."""
    fields = TemplateFields(template)
    for row in rows:
        try:
            for chat in _chats(row.example):
                fields.require(chat)
        except RowError as error:
            on_error(error, row)
        else:
            yield row


def _chats(example: Example) -> tuple[Chat, ...]:
    if isinstance(example, Preference):
        return example.chats()
    return (example,) if isinstance(example, Chat) else ()


def _fields(chat: Chat) -> Iterator[str]:
    if chat.tools:
        yield "tools"
    for message in chat.messages:
        if "tool_calls" in message.extra:
            yield "tool_calls"
        if THOUGHT in message.extra:
            yield THOUGHT
        if message.role in ("tool", "system") and message.content.strip():
            yield f"messages of the role {message.role}"


def _not_shown(field: str) -> RowError:
    return RowError(
        reasons.INVALID_ROW,
        f"the chat template leaves out {field}",
        f"Set model.chatTemplate to one that shows {field}; or remove it from the rows, or name it in ignore of the "
        "data source",
    )
