"""Places of byte-level tokens from their lengths alone: the same as the tokenizers library's own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken

from support.tokenizers_made import byte_level
from tuneyard_trainer.data.tokenize.byte_tokens import TokenBytes, place_tokens
from tuneyard_trainer.data.tokenize.tokenizer import ModelTokenizer

MARKS = ("<|im_start|>", "<|im_end|>", "<끝>")
BYTES = byte_level(MARKS)
PIECES = (*MARKS, "a", " the ", "가나", "é", "e\u0301", "👩\u200d💻", "\n\n", "\x00", "Ġ", "ÿ", "\U0010ffff", "123")


def own(text: str) -> Any:
    """The library's places."""
    return BYTES.encode(text, add_special_tokens=False)


@given(st.lists(st.sampled_from(PIECES) | st.text(st.characters(exclude_categories=["Cs"]))).map("".join))
def test_places(text: str) -> None:
    expected = own(text)
    placed = place_tokens(text, expected.ids, TokenBytes(BYTES))
    assert placed is not None
    assert placed.offsets == expected.offsets
    tokens, characters = range(len(expected.ids)), range(len(text) + 1)
    assert [*map(placed.token_to_chars, tokens)] == [*map(expected.token_to_chars, tokens)]
    assert [*map(placed.char_to_token, characters)] == [*map(expected.char_to_token, characters)]


def test_a_text_that_was_changed_has_no_places() -> None:
    assert place_tokens("a b", own("a  b").ids, TokenBytes(BYTES)) is None


class Counting:
    """A tokenizer that counts how often it is asked, with and without places."""

    def __init__(self, tokenizer: Any) -> None:
        self.with_places: list[str] = []
        self.without: list[str] = []
        self.decoder = tokenizer.decoder
        self._tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def encode_batch(self, texts: Sequence[str], **settings: Any) -> Any:
        self.with_places += texts
        return self._tokenizer.encode_batch(texts, **settings)

    def encode_batch_fast(self, texts: Sequence[str], **settings: Any) -> Any:
        self.without += texts
        return self._tokenizer.encode_batch_fast(texts, **settings)


PLAIN, CHANGED = "a b", "a <eats> b"


@pytest.mark.parametrize(
    ("texts", "without", "with_places"),
    [
        ([PLAIN, PLAIN, CHANGED], [PLAIN, PLAIN, CHANGED] * 2, [CHANGED] * 2),
        ([CHANGED], [CHANGED], [CHANGED] * 2),  # such a tokenizer is not asked without places again
    ],
)
def test_the_library_places_what_was_changed(
    texts: list[str], without: list[str], with_places: list[str], tmp_path: Path
) -> None:
    made = byte_level(MARKS)
    made.add_special_tokens([AddedToken("<eats>", lstrip=True, rstrip=True)])
    counting = Counting(made)
    tokenizer = ModelTokenizer(tmp_path, "s3://models/tiny")
    vars(tokenizer)["_tokenizer"] = counting
    for _ in range(2):
        found = tokenizer.encode(texts)
        assert [item.offsets for item in found] == [made.encode(text).offsets for text in texts]
    assert counting.without == without
    assert counting.with_places == with_places
