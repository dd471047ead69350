"""Every token has a row in the model's embedding: training would fail on the first one that has none."""

from collections.abc import Iterable, Iterator
from typing import Final

from tuneyard_api import reasons
from tuneyard_trainer.data.columns import INPUT_IDS
from tuneyard_trainer.data.template import ChatTemplate
from tuneyard_trainer.data.tokenize import TokenizedExample
from tuneyard_trainer.data.tokenize.tokenizer import ModelTokenizer
from tuneyard_trainer.runtime.errors import BadInput

ADVICE: Final = (
    "Upload the tokenizer that belongs to these weights, or save the weights again after "
    "model.resize_token_embeddings(len(tokenizer))."
)


def check_vocabulary(tokenizer: ModelTokenizer, template: ChatTemplate, rows: int) -> None:
    """Checks the tokenizer against an embedding of `rows` rows.

    Tokens that were added and that no chat uses may lie beyond: Gemma 3's tokenizer has one for images, of which its
    models for text have no row.

    Raises:
        BadInput: tokens that chats are made of have no row.
    """
    beyond = {text for number, text in tokenizer.added_tokens.items() if number >= rows}
    used = sorted(text for text in beyond if text in template.source or text in tokenizer.special_tokens.values())
    if used or tokenizer.size > rows:
        size = max([tokenizer.size, *(number + 1 for number in tokenizer.added_tokens)])
        which = f" ({used[0]} has none)" if used else ""
        raise BadInput(
            reasons.INVALID_MODEL,
            f"{tokenizer.name} has {size} tokens, the model's embedding only {rows} rows{which}",
            ADVICE,
        )


def within(rows: Iterable[TokenizedExample], limit: int, tokenizer: ModelTokenizer) -> Iterable[TokenizedExample]:
    """The rows, all of whose tokens are below `limit`.

    Raises:
        BadInput: names the first row with another token.
    """
    return rows if tokenizer.largest < limit else _within(rows, limit, tokenizer.name)


def _within(rows: Iterable[TokenizedExample], limit: int, name: str) -> Iterator[TokenizedExample]:
    for row in rows:
        largest = max(
            (max(values, default=0) for name, values in row.tokens.items() if name.endswith(INPUT_IDS)), default=0
        )
        if largest >= limit:
            raise BadInput(
                reasons.INVALID_MODEL,
                f"{row.source.where}: {name} makes the token {largest}, the model's embedding has {limit} rows",
                ADVICE,
            )
        yield row
