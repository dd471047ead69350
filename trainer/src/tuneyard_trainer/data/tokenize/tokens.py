"""What an example becomes, and what that takes: shared by all kinds of examples."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

from tuneyard_api.contracts.base import Contract
from tuneyard_trainer.data.columns import TokenArrays
from tuneyard_trainer.data.template import ChatTemplate
from tuneyard_trainer.data.tokenize.encoding import Encoding
from tuneyard_trainer.data.tokenize.tokenizer import ModelTokenizer
from tuneyard_trainer.data.tokenize.turns import TurnFormat

TRUNCATED: Final = "truncated"
"""The reason of an answer that training.maxLength cuts off altogether."""


class TokenizeContext(NamedTuple):
    """What every example of a job is tokenized with."""

    template: ChatTemplate
    tokenizer: ModelTokenizer
    turns: TurnFormat


class Answer(NamedTuple):
    """Which tokens of a row are one answer of the assistant, its end-of-turn token included."""

    begin: int
    end: int
    """Exclusive."""
    left_out: str = ""
    """Why it is not trained."""
    end_token: int | None = None
    """Its end-of-turn token; None where it has none."""
    inside: frozenset[int] = frozenset()
    """End-of-turn tokens that stand elsewhere in it, as a template may use one between a thought and the answer."""


@dataclass
class AnswerCounts:
    """The answers of all rows that training is given."""

    given: int = 0
    trained: int = 0
    cut_short: int = 0
    """Trained ones whose end is cut off."""
    left_out: Counter[str] = field(default_factory=Counter)
    """By reason."""
    end_tokens: set[int] = field(default_factory=set)
    inside: set[int] = field(default_factory=set)

    def add(self, answer: Answer, length: int) -> None:
        """Counts an answer of a row of `length` tokens, after truncation."""
        self.given += 1
        if reason := answer.left_out or (TRUNCATED if answer.begin >= length else ""):
            self.left_out[reason] += 1
            return
        self.trained += 1
        self.inside |= answer.inside
        if answer.end > length:
            self.cut_short += 1
        elif answer.end_token is not None:
            self.end_tokens.add(answer.end_token)

    def merge(self, others: "AnswerCounts") -> None:
        """Adds the counts of other rows."""
        self.given += others.given
        self.trained += others.trained
        self.cut_short += others.cut_short
        self.left_out.update(others.left_out)
        self.end_tokens |= others.end_tokens
        self.inside |= others.inside

    def stop_tokens(self, last_end: int) -> list[int]:
        """The tokens that a served model must stop at.

        Args:
            last_end: what ends the last turn of a chat, as the model is asked for the last turn.
        """
        return sorted({last_end} | (self.end_tokens - self.inside))


class TextPart(Contract):
    """A piece of a rendered row."""

    text: str
    is_trained: bool


class Tokens(NamedTuple):
    """A tokenized example."""

    columns: TokenArrays
    answers: tuple[Answer, ...] = ()


class Rendered(Protocol):
    """An example as text."""

    @property
    def texts(self) -> Sequence[str]:
        """What is given to the tokenizer."""
        ...


class Kind(Protocol):
    """A module that tokenizes one kind of example in two steps, so that the tokenizer is given many rows at once."""

    def render(self, example: Any, context: TokenizeContext) -> Any:
        """The example as text, of the type Rendered.

        Raises:
            RowError: it cannot be trained with this template.
        """
        ...

    def label(self, rendered: Any, encodings: Sequence[Encoding], context: TokenizeContext) -> Tokens:
        """The columns of the shards; a backend has a collator for them.

        Args:
            encodings: of the texts that render has returned.
        """
        ...
