"""Chats to tokens: the assistant's messages are trained with their end-of-turn tokens, everything else is ignored."""

from collections.abc import Sequence
from typing import NamedTuple

from jinja2 import TemplateError

from tuneyard_api import reasons
from tuneyard_trainer.data.columns import IGNORED, INPUT_IDS, LABELS
from tuneyard_trainer.data.examples import Chat, RowError
from tuneyard_trainer.data.tokenize.marks import locate
from tuneyard_trainer.data.tokenize.tokens import Answer, TokenizeContext, Tokens
from tuneyard_trainer.data.tokenize.turns import NOT_SHOWN, Turn
from tuneyard_trainer.data.tokenize.word_cache import Encoding


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
    row = _Row(encoding, encoding.ids)
    labels = [IGNORED] * len(row.ids)
    answers = [_answer(turn, row, context) for turn in rendered.turns]
    for answer in answers:
        labels[answer.begin : answer.end] = row.ids[answer.begin : answer.end]
    return Tokens({INPUT_IDS: row.ids, LABELS: labels}, tuple(answers))


class _Row(NamedTuple):
    """The tokens of a chat."""

    encoding: Encoding
    ids: list[int]

    def place(self, token: int) -> tuple[int, int]:
        """The characters of a token; of few tokens, this is much faster than all offsets."""
        return self.encoding.token_to_chars(token) or (0, 0)

    def token_at(self, characters: range, otherwise: int) -> int:
        """The first token of the first of these characters that has one; a normalizer may have removed some."""
        tokens = (self.encoding.char_to_token(character) for character in characters)
        return next((token for token in tokens if token is not None), otherwise)


def _answer(turn: Turn | str, row: _Row, context: TokenizeContext) -> Answer:
    """The tokens of a turn: from the first that reaches into it to its end-of-turn token."""
    if isinstance(turn, str):
        return Answer(0, 0, left_out=turn)
    ids, ends = row.ids, context.turns.ends
    begin = row.token_at(range(turn.begin, turn.limit), len(ids))
    # A token such as <|assistant|> may have taken in the white space behind it: it belongs to the prompt.
    if begin < len(ids) and ids[begin] in context.tokenizer.added_tokens and row.place(begin)[0] < turn.begin:
        begin += 1
    end = max(begin, row.token_at(range(turn.end - 1, turn.begin - 1, -1), begin))
    while end < len(ids) and row.place(end)[0] < turn.end:
        end += 1
    for later in range(end, len(ids)):
        if row.place(later)[0] >= turn.limit:
            break
        if ids[later] in ends:
            inside = frozenset(ids[begin:later]) & ends if len(ends) > 1 else frozenset()
            return Answer(begin, later + 1, end_token=ids[later], inside=inside)
    return Answer(begin, end) if end > begin else Answer(0, 0, left_out=NOT_SHOWN)
