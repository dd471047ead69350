"""Pairs of answers to tokens: two chats with the same prompt, in which only the answer is trained."""

from collections.abc import Sequence
from typing import NamedTuple

from tuneyard_trainer.data.columns import REJECTED, TokenArrays
from tuneyard_trainer.data.examples import Preference
from tuneyard_trainer.data.tokenize import chat
from tuneyard_trainer.data.tokenize.encoding import Encoding
from tuneyard_trainer.data.tokenize.tokens import TokenizeContext, Tokens


class Rendered(NamedTuple):
    """Both chats as text."""

    chosen: chat.Rendered
    rejected: chat.Rendered

    @property
    def texts(self) -> tuple[str, str]:
        return self.chosen.text, self.rejected.text


def render(pair: Preference, context: TokenizeContext) -> Rendered:
    """Raises RowError when the template rejects the messages."""
    chosen, rejected = pair.chats()
    return Rendered(chat.render(chosen, context), chat.render(rejected, context))


def label(rendered: Rendered, encodings: Sequence[Encoding], context: TokenizeContext) -> Tokens:
    """The columns of the chosen chat, and beside them those of the rejected one."""
    chosen = chat.label(rendered.chosen, encodings[:1], context)
    rejected = chat.label(rendered.rejected, encodings[1:], context)
    columns: TokenArrays = {REJECTED + name: values for name, values in rejected.columns.items()}
    return Tokens(chosen.columns | columns, chosen.answers)
