"""One message of a chat, as OpenAI's, ShareGPT's and their relatives write it."""

import json
from typing import Any, Final

from tuneyard_trainer.data.examples import Message
from tuneyard_trainer.data.formats.fields import Fields, missing_answer, parsed, shown
from tuneyard_trainer.data.formats.vocabulary import REASONING, WEIGHTS

CALL: Final = "function_call"
ROLES: Final = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    CALL: CALL,
    "tool_call": CALL,
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "tool_response": "tool",
    "function_response": "tool",
}
CONTENTS: Final = ("content", "value", "text")
PLAIN: Final = frozenset({"role", "content"})
THOUGHT: Final = "reasoning_content"
"""The field of a message that a chat template is given."""


def read_turns(fields: Fields, name: str) -> list[Message]:
    """The messages in a list.

    Raises:
        RowError: names the message that is wrong.
    """
    return [
        plain_turn(turn, fields) or read_turn(fields.child(turn, f"message {number}", f"{name}[]"))
        for number, turn in enumerate(fields.list_of(name), start=1)
    ]


def plain_turn(given: Any, fields: Fields) -> Message | None:
    """A message that is a role and a text and nothing else, as most are; read_turn says the same of it, more slowly."""
    if not isinstance(given, dict) or given.keys() != PLAIN or not PLAIN.isdisjoint(fields.rules.ignore):
        return None
    role, content = given["role"], given["content"]
    is_plain = role in ("system", "user", "assistant") and isinstance(content, str) and content.isascii()
    return Message(role, content) if is_plain and content.strip() else None


def read_turn(turn: Fields) -> Message:
    role = _role(turn)
    if role == CALL:
        return Message("assistant", "", {"tool_calls": _calls_in_content(turn)})
    name = turn.first(CONTENTS)
    content = _content(turn, name, role) if name else ""
    if role == "assistant":
        return _answer(turn, content)
    if not name:
        turn.refuse("it has no content", "Add the content, or remove the message")
    extra = _extra(turn, ("name", "tool_call_id")) if role == "tool" else _extra(turn, ())
    turn.asked.update(WEIGHTS)  # only answers are trained
    return Message(role, content, extra)


def _role(turn: Fields) -> str:
    name = turn.first(("role", "from"))
    given = turn[name] if name else None
    role = ROLES.get(given.strip().lower()) if isinstance(given, str) else None
    if role is None:
        turn.refuse(f"the role is {shown(repr(given))}", "The roles are system, user, assistant and tool")
    return role


def _extra(turn: Fields, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: turn.text(name) for name in names if name in turn}


def _answer(turn: Fields, content: str) -> Message:
    """A message of the assistant: text, calls of functions, or both."""
    extra: dict[str, Any] = {}
    if calls := _calls(turn):
        extra["tool_calls"] = calls
    if (thought := thought_of(turn)) is not None:
        extra[THOUGHT] = thought
    if not content.strip() and not calls:
        missing_answer(turn, "the assistant's message is empty")
    return Message("assistant", content, extra, trained=is_trained(turn))


def thought_of(fields: Fields) -> str | None:
    """What the assistant thought before it answered."""
    name = fields.first(REASONING)
    return (fields.text(name) or None) if name else None


def is_trained(turn: Fields) -> bool:
    """OpenAI's `weight` (0 or 1), and the flags that others have for the same.

    Raises:
        RowError: another weight.
    """
    name = turn.first(WEIGHTS)
    if name is None:
        return True
    value = turn[name]
    if value not in (0, 1):
        turn.refuse(f"the {name} is {shown(repr(value))}", f"Write {name} as 0 (not trained) or 1 (trained)")
    return bool(value)


def _content(turn: Fields, name: str, role: str) -> str:
    """Text, or text in parts, which are joined by line ends as vLLM does it."""
    value = turn[name]
    if isinstance(value, list) and value and all(isinstance(part, dict) and "type" in part for part in value):
        return "\n".join(_part(turn, part, number) for number, part in enumerate(value, start=1))
    return turn.answer(name) if role in ("assistant", "tool") else turn.text(name)


def _part(turn: Fields, values: dict[str, Any], number: int) -> str:
    part = turn.child(values, f"part {number}", "content[]")
    kind = part["type"]
    if kind not in ("text", "input_text", "output_text"):
        part.refuse(f"the type is {shown(repr(kind))}", "Only text is trained: remove the part, or the row")
    return part.text("text")


def _calls(turn: Fields) -> list[dict[str, Any]]:
    """tool_calls, or function_call as OpenAI wrote it before."""
    given = turn.list_of("tool_calls") if "tool_calls" in turn else []
    if CALL in turn:
        given = [*given, turn[CALL]]
    return [_call(turn, call) for call in given]


def _calls_in_content(turn: Fields) -> list[dict[str, Any]]:
    """A call as the content of a message of its own."""
    name = turn.first(CONTENTS)
    value = turn[name] if name else None
    value = parsed(value) if isinstance(value, str) else value
    calls = value if isinstance(value, list) else [value]
    return [_call(turn, call) for call in calls]


def _call(turn: Fields, given: Any) -> dict[str, Any]:
    """A call as chat templates are given it: with arguments that are an object, not JSON text (as vLLM does it)."""
    given = parsed(given) if isinstance(given, str) else given
    wrapped = isinstance(given, dict) and isinstance(given.get("function"), dict)
    function = given["function"] if wrapped else given
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        turn.refuse("a tool call has no function with a name", 'Write {"type": "function", "function": {"name": ...}}')
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        arguments = parsed(arguments) if arguments.strip() else {}
        if arguments is None:
            turn.refuse(f"the arguments of the call of {shown(function['name'])} are not JSON", "Write a JSON object")
    call = {**given, "type": "function"} if wrapped else {"type": "function"}
    return _checked(turn, call | {"function": {"name": function["name"], "arguments": arguments or {}}})


def read_tools(fields: Fields) -> tuple[dict[str, Any], ...]:
    """The functions that the assistant may call: tools, or functions as OpenAI wrote it before."""
    name = fields.first(("tools", "functions"))
    given = fields.list_of(name) if name else []
    if not all(isinstance(tool, dict) for tool in given):
        fields.refuse(f"an entry of {name} is not an object", "Write an object for each function")
    wrapped = [tool if "function" in tool else {"type": "function", "function": tool} for tool in given]
    return tuple(_checked(fields, tool) for tool in wrapped)


def _checked(fields: Fields, value: dict[str, Any]) -> dict[str, Any]:
    """Raises RowError when the value cannot be JSON: a number that is none, or half a character."""
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError):
        fields.refuse("a tool or a tool call cannot be written as JSON", "Write plain JSON")
    return value
