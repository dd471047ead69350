"""Chats to tokens: the assistant's messages are trained with their end-of-turn tokens, everything else is ignored."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jinja2 import TemplateError

from tuneyard_api import reasons
from tuneyard_trainer.data.columns import IGNORED, INPUT_IDS, LABELS, TokenizedRow
from tuneyard_trainer.data.examples import Chat, Messages, RowError
from tuneyard_trainer.data.template import ChatTemplate
from tuneyard_trainer.data.tokenize.tokenizer import ModelTokenizer

Span = tuple[int, int]
Tools = Sequence[Mapping[str, Any]]


class Rendered(NamedTuple):
    """A chat as text."""

    text: str
    spans: list[Span]
    """The assistant's characters, from and to (exclusive)."""


def tokenize(chat: Chat, template: ChatTemplate, tokenizer: ModelTokenizer) -> TokenizedRow:
    """The tokens of a chat, and a label for each.

    Raises:
        RowError: see render.
        BadInput: see ModelTokenizer.encode.
    """
    rendered = render(template, chat.messages, chat.tools)
    encoding = tokenizer.encode(rendered.text)
    return {INPUT_IDS: encoding.ids, LABELS: labels(encoding.ids, encoding.offsets, rendered.spans)}


def render(template: ChatTemplate, messages: Messages, tools: Tools = ()) -> Rendered:
    """The whole chat as text, and the spans of the assistant's turns.

    A turn begins where the generation prompt ends, because the model is asked with that prompt, and ends with its last
    visible character, which belongs to the end-of-turn token. An earlier turn that the template renders differently
    once other turns follow (reasoning that is removed) is not trained.

    Raises:
        RowError: the template rejects the messages, or renders the last turn differently than it asks for it.
    """
    try:
        text = template.render(messages, tools)
        spans: list[Span] = []
        for index, message in enumerate(messages):
            if message.role == "assistant" and message.trained:
                asked = template.render(messages[:index], tools, add_generation_prompt=True)
                answered = template.render(messages[: index + 1], tools)
                end = _end_of_turn(answered, message.content)
                if text.startswith(asked) and text.startswith(answered[:end]):
                    spans.append((len(asked), end))
    except TemplateError as error:
        raise RowError(
            reasons.INVALID_ROW,
            f"the chat template rejects the messages: {error}",
            "Change the roles or their order, or set model.chatTemplate",
        ) from error
    if not spans:
        raise RowError(
            reasons.INVALID_ROW,
            "the chat template shows the answer differently than it asks for it, so it cannot be trained",
            "Set model.chatTemplate to one whose generation prompt is the beginning of the assistant's turn",
        )
    return Rendered(text, spans)


def _end_of_turn(answered: str, content: str) -> int:
    """The end of the turn: its last visible character, or the white space if the template ends turns with it."""
    visible = answered.rstrip()
    return len(answered) if visible.endswith(content.rstrip()) else len(visible)


def labels(ids: Sequence[int], offsets: Sequence[Span], spans: Sequence[Span]) -> list[int]:
    """The tokens within a span, IGNORED elsewhere. A token that begins before a span belongs to the prompt."""
    return [
        token if any(start <= first < last <= end for start, end in spans) else IGNORED
        for token, (first, last) in zip(ids, offsets, strict=True)
    ]
