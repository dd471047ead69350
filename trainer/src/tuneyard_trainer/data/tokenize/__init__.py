"""Examples to tokens: a new kind of example is one module with `tokenize` and one line here."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tuneyard_api import reasons
from tuneyard_trainer.data.columns import TokenizedRow
from tuneyard_trainer.data.examples import Chat, Example, RowError
from tuneyard_trainer.data.source import SourceRow
from tuneyard_trainer.data.template import ChatTemplate
from tuneyard_trainer.data.tokenize import chat
from tuneyard_trainer.runtime.errors import BadInput

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER_FILE: Final = "tokenizer.json"

# The columns that a function returns are those of the shards; a backend has a collator for them.
TOKENIZERS: "Final[dict[type[Example], Callable[[Any, ChatTemplate, Tokenizer], TokenizedRow]]]" = {
    Chat: chat.tokenize,
}


class TokenizedExample(NamedTuple):
    """A row and its tokens."""

    source: SourceRow
    tokens: TokenizedRow


class ExampleTokenizer:
    """Tokenizes examples with a model's own tokenizer and chat template.

    Raises:
        BadInput: the model has no fast tokenizer.
    """

    def __init__(self, directory: Path, template: ChatTemplate, uri: str) -> None:
        # Here, so that importing this module stays cheap.
        from tokenizers import Tokenizer  # noqa: PLC0415

        path = directory / TOKENIZER_FILE
        if not path.is_file():
            raise BadInput(
                reasons.MODEL_NOT_FOUND,
                f"The model at {uri} has no {TOKENIZER_FILE}",
                "Save its tokenizer with transformers (AutoTokenizer.from_pretrained(...).save_pretrained(...)) there.",
            )
        self._template = template
        self._tokenizer: Tokenizer = Tokenizer.from_file(str(path))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

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
