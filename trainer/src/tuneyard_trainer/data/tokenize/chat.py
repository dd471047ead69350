"""Chats to tokens: the assistant's messages are trained with their end-of-turn tokens, everything else is ignored."""

from array import array
from collections.abc import Sequence
from typing import Final, NamedTuple

from jinja2 import TemplateError

from tuneyard_api import reasons
from tuneyard_trainer.data.columns import IGNORED, INPUT_IDS, LABELS, as_array
from tuneyard_trainer.data.examples import Chat, RowError
from tuneyard_trainer.data.tokenize.encoding import Encoding
from tuneyard_trainer.data.tokenize.marks import locate
from tuneyard_trainer.data.tokenize.tokens import Answer, TokenizeContext, Tokens
from tuneyard_trainer.data.tokenize.turns import NOT_SHOWN, Turn

_ONE_IGNORED: Final = array("i", [IGNORED])


class Rendered(NamedTuple):
    """A chat as text."""

    text: str
    turns: list[Turn | str]
    """Of the answers that are to be trained; or why one cannot be."""

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.text,)


def render(chat: Chat, context: TokenizeContext) -> Rendered:
    """The whole chat as text, and the assistant's turns in it.

    Raises:
        RowError: the template rejects the messages.
    """
    messages = chat.messages
    try:
        places = locate(context.template, messages, chat.tools)
    except TemplateError as error:
        raise RowError(
            reasons.INVALID_ROW,
            f"the chat template rejects the messages: {error}",
            "Change the roles or their order, or set model.chatTemplate",
        ) from error
    answers = [item for item, message in enumerate(messages) if message.role == "assistant" and message.trained]
    return Rendered(places.text, [context.turns.find(places, messages, item) for item in answers])


def label(rendered: Rendered, encodings: Sequence[Encoding], context: TokenizeContext) -> Tokens:
    """The tokens of a chat, and a label for each."""
    (encoding,) = encodings
    ids = as_array(encoding.ids)
    labels = _ONE_IGNORED * len(ids)
    answers = [_answer(turn, encoding, ids, context) for turn in rendered.turns]
    for answer in answers:
        labels[answer.begin : answer.end] = ids[answer.begin : answer.end]
    return Tokens({INPUT_IDS: ids, LABELS: labels}, tuple(answers))


def _answer(turn: Turn | str, encoding: Encoding, ids: "array[int]", context: TokenizeContext) -> Answer:
    """The tokens of a turn: from the first that reaches into it to its end-of-turn token."""
    if isinstance(turn, str):
        return Answer(0, 0, left_out=turn)
    ends = context.turns.ends
    begin = _first_in(range(turn.begin, turn.limit), encoding)
    # A token such as <|assistant|> may have taken in the white space behind it: it belongs to the prompt.
    if begin < len(ids) and ids[begin] in context.tokenizer.added_tokens:
        begin = encoding.first_from(turn.begin)
    end = max(begin, encoding.first_from(turn.end))
    for later in range(end, encoding.first_from(turn.limit)):
        if ids[later] in ends:
            inside = frozenset(ids[begin:later]) & ends if len(ends) > 1 else frozenset()
            return Answer(begin, later + 1, end_token=ids[later], inside=inside)
    return Answer(begin, end) if end > begin else Answer(0, 0, left_out=NOT_SHOWN)


def _first_in(characters: range, encoding: Encoding) -> int:
    """The first token of the first of these characters that has one; a normalizer may have removed some."""
    tokens = map(encoding.token_at, characters)
    return next((token for token in tokens if token is not None), len(encoding.ids))
