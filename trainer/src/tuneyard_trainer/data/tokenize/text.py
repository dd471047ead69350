"""Plain text to tokens: all of them are trained, and the token that ends a text with them."""

from collections.abc import Sequence
from typing import NamedTuple

from tuneyard_trainer.data.columns import INPUT_IDS, LABELS, as_array
from tuneyard_trainer.data.examples import Text
from tuneyard_trainer.data.tokenize.encoding import Encoding
from tuneyard_trainer.data.tokenize.tokens import TokenizeContext, Tokens


class Rendered(NamedTuple):
    """A text with what stands around it."""

    texts: tuple[str]


def render(text: Text, context: TokenizeContext) -> Rendered:
    """The text between the tokens that begin and end one, where the model's tokenizer has them."""
    tokenizer = context.tokenizer
    return Rendered((f"{tokenizer.text_start}{text.text}{tokenizer.special_tokens.get('eos_token', '')}",))


def label(rendered: Rendered, encodings: Sequence[Encoding], context: TokenizeContext) -> Tokens:
    (encoding,) = encodings
    ids = as_array(encoding.ids)
    return Tokens({INPUT_IDS: ids, LABELS: ids[:]})
