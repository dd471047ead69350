"""Where the tokens of byte-level BPE stand in their text, which most models have.

The bytes of such tokens, one after another, are the text, so that their lengths tell their places. The tokenizers
library takes a third of its time for them.
"""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Of GPT-2's encoder.py: a byte that can be seen stands for itself, the others follow from U+0100 on.
_SEEN: Final = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_UNSEEN: Final = tuple(byte for byte in range(256) if byte not in _SEEN)
_BYTES: Final = {chr(byte): byte for byte in _SEEN} | {chr(256 + number): byte for number, byte in enumerate(_UNSEEN)}
_NO_TEXT: Final = b"\xff"
"""It stands in no UTF-8."""


class Encoded(Protocol):
    """The tokens of a text and their places in it, in characters: a tokenizers.Encoding, or ByteTokens."""

    @property
    def ids(self) -> list[int]: ...

    @property
    def offsets(self) -> list[tuple[int, int]]: ...

    def token_to_chars(self, token_index: int) -> tuple[int, int] | None: ...

    def char_to_token(self, char_pos: int) -> int | None: ...


class TokenBytes(dict[int, bytes]):
    """The bytes of each token, looked up when it is first asked for."""

    def __init__(self, tokenizer: "Tokenizer") -> None:
        super().__init__()
        self._tokenizer = tokenizer
        self._added = {number: token.content for number, token in tokenizer.get_added_tokens_decoder().items()}

    def __missing__(self, number: int) -> bytes:
        if (added := self._added.get(number)) is not None:
            found = added.encode("utf-8", "surrogatepass")
        else:
            token = self._tokenizer.id_to_token(number) or ""
            found = bytes(map(_BYTES.__getitem__, token)) if _BYTES.keys() >= set(token) else _NO_TEXT
        self[number] = found or _NO_TEXT
        return self[number]


class ByteTokens:
    """The tokens of a text with their places in characters, as tokenizers.Encoding has them."""

    __slots__ = ("_begins", "_ends", "ids")

    def __init__(self, ids: list[int], begins: Sequence[int], ends: Sequence[int]) -> None:
        self.ids = ids
        self._begins = begins
        self._ends = ends

    @property
    def offsets(self) -> list[tuple[int, int]]:
        return list(zip(self._begins, self._ends, strict=True))

    def token_to_chars(self, token_index: int) -> tuple[int, int] | None:
        return self._begins[token_index], self._ends[token_index]

    def char_to_token(self, char_pos: int) -> int | None:
        """The first token that has a part of the character."""
        token = bisect_right(self._ends, char_pos)
        return token if token < len(self._ends) else None


def place_tokens(text: str, ids: list[int], token_bytes: TokenBytes) -> ByteTokens | None:
    """The tokens of a text; None where their bytes are not the text, for example because it was normalized."""
    pieces = list(map(token_bytes.__getitem__, ids))
    written = b"".join(pieces)
    if written != text.encode():
        return None
    ends = list(accumulate(map(len, pieces)))
    if len(text) == len(written):
        return ByteTokens(ids, [0, *ends[:-1]] if ends else [], ends)
    # How many characters have begun with each byte: all bytes but those that go on with one begin another.
    begun = np.cumsum((np.frombuffer(written, np.uint8) & 0xC0) != 0x80)
    last = np.asarray(ends) - 1
    return ByteTokens(ids, (begun[[0, *ends[:-1]]] - 1).tolist(), begun[last].tolist())
