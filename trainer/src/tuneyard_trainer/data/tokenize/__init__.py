"""Examples to tokens: a new kind of example is one module with `render` and `label`, and one line here."""

from collections.abc import Callable, Sequence
from itertools import groupby, islice
from typing import Any, Final, NamedTuple

from tuneyard_trainer.data.columns import IGNORED, LABELS, TokenArrays
from tuneyard_trainer.data.examples import Chat, Example, Preference, RowError, Text
from tuneyard_trainer.data.source import KnownRow
from tuneyard_trainer.data.template import ChatTemplate
from tuneyard_trainer.data.tokenize import chat, preference, text
from tuneyard_trainer.data.tokenize.tokenizer import ModelTokenizer
from tuneyard_trainer.data.tokenize.tokens import Answer, Kind, TextPart, TokenizeContext
from tuneyard_trainer.data.tokenize.turns import find_format

TOKENIZERS: Final[dict[type[Example], Kind]] = {
    Chat: chat,
    Text: text,
    Preference: preference,
}

OnError = Callable[[RowError, KnownRow], None]


def refuse(error: RowError, row: KnownRow) -> None:
    """Raises BadInput, which names the URI and the line of a row that cannot be trained."""
    raise error.at(row.where) from error


class TokenizedExample(NamedTuple):
    """A row and its tokens."""

    source: KnownRow
    tokens: TokenArrays
    answers: tuple[Answer, ...] = ()
    """Where the assistant's answers are among the tokens."""
    piece: int = 0
    """Which one, of plain text that is longer than training.maxLength and is cut."""


class ExampleTokenizer:
    """Tokenizes examples with a model's own tokenizer and a chat template.

    Args:
        where: how messages name the template.

    Raises:
        BadInput: the template is broken, or cannot be trained with this tokenizer; see turns.find_format.
    """

    def __init__(self, template: ChatTemplate, tokenizer: ModelTokenizer, where: str) -> None:
        self.context = TokenizeContext(template, tokenizer, find_format(template, tokenizer, where))
        self._where = where

    def __reduce__(self) -> tuple[type["ExampleTokenizer"], tuple[ChatTemplate, ModelTokenizer, str]]:
        """Another process makes its own."""
        return ExampleTokenizer, (self.context.template, self.context.tokenizer, self._where)

    def tokenize(self, rows: Sequence[KnownRow], on_error: OnError = refuse) -> list[TokenizedExample]:
        """The rows with their tokens; those that cannot be trained are given to `on_error`."""
        rendered: list[tuple[KnownRow, Any]] = []
        with self.context.template.bounded():
            for row in rows:
                try:
                    rendered.append((row, self._render(row)))
                except RowError as error:
                    on_error(error, row)
        encodings = iter(self.context.tokenizer.encode([text for _, item in rendered for text in item.texts]))
        tokens = [
            TOKENIZERS[type(row.example)].label(item, list(islice(encodings, len(item.texts))), self.context)
            for row, item in rendered
        ]
        return [TokenizedExample(row, *item) for (row, _), item in zip(rendered, tokens, strict=True)]

    def show(self, row: KnownRow, length: int) -> list[TextPart]:
        """The text of the row's first `length` tokens, in pieces that are trained and pieces that are not."""
        rendered = self._render(row)
        encodings = self.context.tokenizer.encode(rendered.texts)
        labels = TOKENIZERS[type(row.example)].label(rendered, encodings, self.context).columns[LABELS][:length]
        shown, places = rendered.texts[0], encodings[0].offsets[:length]
        parts, position = [], 0
        for is_trained, group in groupby(enumerate(labels), lambda item: item[1] != IGNORED):
            tokens = [number for number, _ in group]
            if is_trained:
                parts += [TextPart(text=shown[position : places[tokens[0]][0]], is_trained=False)]
                position = places[tokens[-1]][1]
                parts += [TextPart(text=shown[places[tokens[0]][0] : position], is_trained=True)]
        end = places[-1][1] if places else 0
        return [part for part in (*parts, TextPart(text=shown[position:end], is_trained=False)) if part.text]

    def _render(self, row: KnownRow) -> Any:
        return TOKENIZERS[type(row.example)].render(row.example, self.context)
