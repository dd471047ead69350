"""Examples to tokens: a new kind of example is one module with `tokenize` and one line here."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from tuneyard_trainer.data.columns import TokenizedRow
from tuneyard_trainer.data.examples import Chat, Example, RowError
from tuneyard_trainer.data.source import SourceRow
from tuneyard_trainer.data.template import ChatTemplate
from tuneyard_trainer.data.tokenize import chat
from tuneyard_trainer.data.tokenize.tokenizer import ModelTokenizer

# The columns that a function returns are those of the shards; a backend has a collator for them.
TOKENIZERS: Final[dict[type[Example], Callable[[Any, ChatTemplate, ModelTokenizer], TokenizedRow]]] = {
    Chat: chat.tokenize,
}


class TokenizedExample(NamedTuple):
    """A row and its tokens."""

    source: SourceRow
    tokens: TokenizedRow


class ExampleTokenizer:
    """Tokenizes examples with a model's own tokenizer and chat template.

    Raises:
        BadInput: the model has no fast tokenizer, or its file is broken.
    """

    def __init__(self, directory: Path, template: ChatTemplate, uri: str) -> None:
        self._template = template
        self._tokenizer = ModelTokenizer(directory, uri)

    def tokenize(self, example: Example) -> TokenizedRow:
        """Raises RowError when the example cannot be trained with this template."""
        return TOKENIZERS[type(example)](example, self._template, self._tokenizer)


def tokenize_rows(rows: Iterable[SourceRow], tokenizer: ExampleTokenizer) -> Iterator[TokenizedExample]:
    """The rows with their tokens.

    Raises:
        BadInput: names the URI and the line of the first row that cannot be trained.
    """
    for row in rows:
        try:
            tokens = tokenizer.tokenize(row.example)
        except RowError as error:
            raise error.at(row.where) from error
        yield TokenizedExample(row, tokens)
