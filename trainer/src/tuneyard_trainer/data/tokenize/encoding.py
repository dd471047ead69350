"""The tokens of a text, and which of them stand where."""

from bisect import bisect_left
from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from tokenizers import Encoding as Encoded


class Encoding(Protocol):
    """The tokens of a text."""

    @property
    def ids(self) -> Sequence[int]: ...

    @property
    def offsets(self) -> list[tuple[int, int]]:
        """The characters of each token."""
        ...

    def token_at(self, character: int) -> int | None:
        """The first token with this character; None where a normalizer has removed it."""
        ...

    def first_from(self, character: int) -> int:
        """The first token that begins at this character or behind it; the number of tokens where none does."""
        ...


class WholeEncoding:
    """What the tokenizers library makes of a text as a whole."""

    def __init__(self, encoded: "Encoded") -> None:
        self.ids: list[int] = encoded.ids
        self._encoded = encoded

    @property
    def offsets(self) -> list[tuple[int, int]]:
        return self._encoded.offsets

    def token_at(self, character: int) -> int | None:
        return self._encoded.char_to_token(character)

    def first_from(self, character: int) -> int:
        return bisect_left(self._begins, character)

    @cached_property
    def _begins(self) -> list[int]:
        """A token without characters counts as one of those before it."""
        return list(accumulate((begin for begin, _ in self._encoded.offsets), max))
