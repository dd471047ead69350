"""The texts of an example, whatever its kind: what cleaning steps look at and change."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, assert_never

from tuneyard_trainer.data.examples import Chat, Example, Message, Messages, Preference, Text

Change = Callable[[str], str]


def texts(example: Example) -> Iterator[str]:
    """All text in it, calls of functions included."""
    if isinstance(example, Text):
        yield example.text
        return
    for message in messages_of(example):
        yield message.content
        if message.extra:
            yield from _strings(message.extra)
    if isinstance(example, Chat):
        yield from _strings(example.tools)


def messages_of(example: Chat | Preference) -> Messages:
    """All messages, those of both answers of a pair."""
    if isinstance(example, Chat):
        return example.messages
    return (*example.prompt, *example.chosen, *example.rejected)


def said(example: Example) -> str:
    """What user and assistant say, without the system text, which rows often have in common."""
    if isinstance(example, Text):
        return example.text
    return "\n".join(message.content for message in messages_of(example) if message.role != "system")


def answers(example: Example) -> Iterator[str]:
    """The answers that are trained, of a pair the chosen one; calls of functions are no text."""
    if isinstance(example, Text):
        return
    given = example.messages if isinstance(example, Chat) else example.chosen
    for message in given:
        if message.role == "assistant" and message.trained and not message.extra.get("tool_calls"):
            yield message.content


def whole(example: Example) -> str:
    """All text in it, as one."""
    return "\n".join(texts(example))


def change_texts(example: Example, change: Change, is_needed: Callable[[str], object]) -> Example:
    """The example with changed texts; itself where no text changes.

    Args:
        is_needed: whether anything may change in this text; it is asked once, of all texts as one.
    """
    if not is_needed(whole(example)):
        return example
    if isinstance(example, Text):
        text = change(example.text)
        return example if text == example.text else Text(text)
    if isinstance(example, Chat):
        messages, tools = _messages(example.messages, change), _changed(example.tools, change)
        same = messages is example.messages and tools == example.tools
        return example if same else Chat(messages, tools)
    if isinstance(example, Preference):
        parts = [_messages(part, change) for part in (example.prompt, example.chosen, example.rejected)]
        same = parts[0] is example.prompt and parts[1] is example.chosen and parts[2] is example.rejected
        return example if same else Preference(*parts)
    assert_never(example)


def _messages(messages: Messages, change: Change) -> Messages:
    changed = tuple(_message(message, change) for message in messages)
    return messages if all(map(_is, changed, messages)) else changed


def _is(one: object, other: object) -> bool:
    return one is other


def _message(message: Message, change: Change) -> Message:
    content = change(message.content)
    extra = _changed(message.extra, change) if message.extra else message.extra
    if content == message.content and extra == message.extra:
        return message
    return replace(message, content=content, extra=extra)


def _changed(value: Any, change: Change) -> Any:
    """The value with changed strings; names of fields stay."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {name: _changed(item, change) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_changed(item, change) for item in value)
    return value


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _strings(item)


def question_and_answer(example: Example) -> tuple[str, str]:
    """What is asked and what is answered, of a pair both answers; without the system text. Plain text is an answer."""
    if isinstance(example, Text):
        return "", example.text
    messages = messages_of(example)
    asked = (message.content for message in messages if message.role not in ("system", "assistant"))
    return "\n".join(asked), "\n".join(message.content for message in messages if message.role == "assistant")
