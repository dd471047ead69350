"""Where a template puts the messages: found by marks around their contents, which are taken out again."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from tuneyard_trainer.data.examples import Message
from tuneyard_trainer.data.template import ChatTemplate

# The two private use planes of Unicode. Some fonts put icons there, so the plane that the messages do not use is taken.
PLANES: Final = (0x100000, 0xF0000)
PLANE_CHARACTERS: Final = 0xFFFD
UNMISTAKABLE: Final = 16
"""Characters of a content that no template has by itself."""
MARKS: Final = {plane: re.compile(f"([{chr(plane)}-{chr(plane + PLANE_CHARACTERS)}])") for plane in PLANES}


class Places(NamedTuple):
    """A rendered chat, and where the contents of its messages stand in it."""

    text: str
    begins: dict[int, int]
    """By the number of the message. A beginning is missing where the template leaves it out, such as a thought."""
    ends: dict[int, int]
    """White space at the end of a content lies behind its end."""


def locate(
    template: ChatTemplate,
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]] = (),
    *,
    add_generation_prompt: bool = False,
) -> Places:
    """Renders a chat and finds its contents.

    Contents that stand in the text once are found at once. Else the chat is rendered again, with a mark at both ends of
    each content. A mark stands within the white space around it, so that templates which trim do the same with it.

    Raises:
        jinja2.TemplateError: the template rejects the messages.
    """
    text = template.render(messages, tools, add_generation_prompt=add_generation_prompt)
    if not tools and (places := _once(text, messages)):
        return places
    plane = next((plane for plane in PLANES if not _uses(plane, text)), None)
    if plane is not None and 2 * len(messages) <= PLANE_CHARACTERS:
        marked = template.render(
            [_marked(message, plane + 2 * number) for number, message in enumerate(messages)],
            tools,
            add_generation_prompt=add_generation_prompt,
        )
        places = _take_out(marked, plane, messages)
        if places.text == text:
            return places
    # The marks have changed what the template does, so the contents themselves are looked for.
    return _search(text, messages)


def _once(text: str, messages: Sequence[Message]) -> Places | None:
    """The contents, where each of them stands in the text only once, in the order of the messages.

    None where one may be found elsewhere: it is so short that a template may have it, or the message has other texts.
    """
    places = Places(text, {}, {})
    position = 0
    for number, message in enumerate(messages):
        core = message.content.strip()
        if message.extra or 0 < len(core) < UNMISTAKABLE:
            return None
        if core:
            begin = text.find(core)
            if begin < position or text.find(core, begin + 1) >= 0:
                return None
            position = begin + len(core)
            places.begins[number], places.ends[number] = begin, position
    return places


def _uses(plane: int, text: str) -> bool:
    return not text.isascii() and MARKS[plane].search(text) is not None


def _marked(message: Message, mark: int) -> Message:
    core = message.content.strip()
    if not core:
        return message
    before, after = message.content.split(core, 1)
    marked = f"{before}{chr(mark)}{core}{chr(mark + 1)}{after}"
    return Message(message.role, marked, message.extra, message.trained)


def _take_out(marked: str, plane: int, messages: Sequence[Message]) -> Places:
    """The text without the marks, and where they stood.

    Some templates show a content twice. That of an answer counts where it is shown last, of the others the first time.
    """
    found: tuple[dict[int, int], dict[int, int]] = ({}, {})
    pieces = MARKS[plane].split(marked)
    position = len(pieces[0])
    for mark, piece in zip(pieces[1::2], pieces[2::2], strict=True):
        number, side = divmod(ord(mark) - plane, 2)
        if number not in found[side] or messages[number].role == "assistant":
            found[side][number] = position
        position += len(piece)
    return Places("".join(pieces[::2]), *found)


def _search(text: str, messages: Sequence[Message]) -> Places:
    """The contents where they stand in the order of the messages."""
    places = Places(text, {}, {})
    position = 0
    for number, message in enumerate(messages):
        core = message.content.strip()
        begin = text.find(core, position) if core else -1
        if begin >= 0:
            position = begin + len(core)
            places.begins[number], places.ends[number] = begin, position
    return places
