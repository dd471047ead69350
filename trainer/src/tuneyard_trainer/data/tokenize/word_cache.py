"""Tokenizing word by word: the tokens of a word are kept, as most words of a data set come again and again.

This gives the same tokens only where the tokenizer never makes a token across the places at which a text is cut into
words here, and where what stands on one side of such a place changes nothing on the other: see `splits_at_words`.
"""

import json
import re
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache
from itertools import accumulate, chain
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer

# A word begins before a blank that follows anything else, and behind a single line break before a letter or a mark.
# What is rare stands first in a pattern: it is looked for fast.
BEFORE_BLANK: Final = re.compile(r"(?= )(?<=\S)")
LINE_BREAK: Final = re.compile(r"\n(?<=\S\n)(?=[\w<])")
# The words that are kept, and the longest: together some 20 MB.
MOST_WORDS: Final = 65_536
LONGEST: Final = 64  # characters
# The words whose tokens' places are kept: where answers begin and end.
MOST_PLACES: Final = 4096

CONTRACTIONS: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
BLANKS: Final = r"\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER: Final = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
LOWER: Final = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
ASCII_MARK: Final = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"""


def _uncased(digits: str) -> str:
    letters = r"[^\r\n\p{L}\p{N}]?\p{L}+"
    return rf"{CONTRACTIONS}|{letters}|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{BLANKS}"


def _cased(contractions: str, digits: str) -> str:
    before = r"[^\r\n\p{L}\p{N}]?"
    letters = f"{before}{UPPER}*{LOWER}+{contractions}|{before}{UPPER}+{LOWER}*{contractions}"
    return rf"{letters}|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{BLANKS}"


# The patterns by which models cut text into words, as their tokenizer.json has them. In each a blank is white space by
# itself or the first character of a match, no match goes on from a line break to what LINE_BREAK wants after it, and
# nothing beyond a match is looked at but whether white space goes on. The pattern of GPT-2 is built into ByteLevel.
WORDS: Final = {
    r"\s",
    _uncased(r"\p{N}{1,3}"),  # Llama 3
    _uncased(r"\p{N}"),  # Qwen 2 and 3
    _cased(f"{CONTRACTIONS}?", r"\p{N}{1,3}"),  # GPT-4o, gpt-oss, Llama 4
    _cased("", r"\p{N}"),  # Mistral since Nemo
    # DeepSeek V3
    rf"{ASCII_MARK}[A-Za-z]+|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+| ?[\p{{P}}\p{{S}}]+[\r\n]*|{BLANKS}",
}
# What cuts out characters that are no white space, beside one of WORDS.
OTHERS: Final = {r"\p{N}{1,3}", "[一-龥\u3040-\u309f\u30a0-\u30ff]+"}
# Normalizers that change nothing at a blank or a line break.
NORMALIZERS: Final = (None, "NFC")


class Encoding(Protocol):
    """The tokens of a text: an Encoding of the tokenizers library, or the same put together from words."""

    @property
    def ids(self) -> list[int]: ...

    @property
    def offsets(self) -> list[tuple[int, int]]:
        """The characters of each token."""
        ...

    def token_to_chars(self, token_index: int) -> tuple[int, int] | None: ...

    def char_to_token(self, char_pos: int) -> int | None: ...


class WordCache:
    """Encodes texts word by word with a tokenizer for which splits_at_words is true."""

    def __init__(self, tokenizer: "Tokenizer") -> None:
        self._tokenizer = tokenizer
        self._kept: dict[str, tuple[int, ...]] = {}
        self._kept_places = lru_cache(MOST_PLACES)(self._encode)

    def encode(self, texts: Sequence[str]) -> list["WordEncoding"]:
        """The tokens of texts, which the library gives too."""
        split = list(map(split_words, texts))
        new = list(set(chain.from_iterable(split)).difference(self._kept))
        encodings = self._tokenizer.encode_batch_fast(new, add_special_tokens=False)
        self._kept.update((word, tuple(found.ids)) for word, found in zip(new, encodings, strict=True))
        encoded = [WordEncoding(words, list(map(self._kept.__getitem__, words)), self._places) for words in split]
        self._forget(new)
        return encoded

    def _forget(self, new: Sequence[str]) -> None:
        """Drops long words, and everything once there are too many: frequent ones come back with the next texts."""
        if len(self._kept) > MOST_WORDS:
            self._kept.clear()
        for word in new:
            if len(word) > LONGEST:
                self._kept.pop(word, None)

    def _places(self, word: str) -> Encoding:
        return self._kept_places(word) if len(word) <= LONGEST else self._encode(word)

    def _encode(self, word: str) -> Encoding:
        return self._tokenizer.encode(word, add_special_tokens=False)


def split_words(text: str) -> list[str]:
    """The words of a text, white space included."""
    *whole, last = LINE_BREAK.split(text)
    return [word for line in (*(f"{line}\n" for line in whole), last) for word in BEFORE_BLANK.split(line)]


class _Begins(NamedTuple):
    """Where each word begins, in characters and in tokens."""

    characters: list[int]
    tokens: list[int]


class WordEncoding:
    """An Encoding of words. The places of tokens are asked for at few words, several times at each."""

    def __init__(self, words: Sequence[str], ids: Sequence[tuple[int, ...]], encode: Callable[[str], Encoding]) -> None:
        self.ids = list(chain.from_iterable(ids))
        self._words = words
        self._ids = ids
        self._encode = lru_cache(2)(encode)  # the ends of an answer, which are long where a language has no blanks

    @property
    def offsets(self) -> list[tuple[int, int]]:
        found = zip(self._begins.characters, map(self._encode, self._words), strict=True)
        return [(before + begin, before + end) for before, word in found for begin, end in word.offsets]

    def token_to_chars(self, token_index: int) -> tuple[int, int] | None:
        word = bisect_right(self._begins.tokens, token_index) - 1
        found = self._encode(self._words[word]).token_to_chars(token_index - self._begins.tokens[word])
        before = self._begins.characters[word]
        return found and (before + found[0], before + found[1])

    def char_to_token(self, char_pos: int) -> int | None:
        word = bisect_right(self._begins.characters, char_pos) - 1
        found = self._encode(self._words[word]).char_to_token(char_pos - self._begins.characters[word])
        return None if found is None else self._begins.tokens[word] + found

    @cached_property
    def _begins(self) -> _Begins:
        """Without the end of the last word."""
        lengths = (map(len, self._words[:-1]), map(len, self._ids[:-1]))
        return _Begins(*(list(accumulate(each, initial=0)) for each in lengths))


def splits_at_words(tokenizer: "Tokenizer") -> bool:
    """Whether a tokenizer gives a text the tokens of its words, one after another; false where that is not known."""
    # Here, so that importing this module stays cheap.
    from tokenizers.models import BPE  # noqa: PLC0415

    splitter = _settings(tokenizer.pre_tokenizer)
    steps = splitter["pretokenizers"] if splitter.get("type") == "Sequence" else [splitter]
    return (
        isinstance(tokenizer.model, BPE)
        and tokenizer.model.dropout is None
        and _settings(tokenizer.normalizer).get("type") in NORMALIZERS
        and any(map(_cuts_words, steps))
        and all(_cuts_words(step) or _cuts_others(step) for step in steps)
        and not any(map(_reaches_out, tokenizer.get_added_tokens_decoder().values()))
    )


def _settings(part: Any) -> dict[str, Any]:
    """A part of a tokenizer as tokenizer.json has it; the state of its pickle is that."""
    return {} if part is None else json.loads(part.__getstate__())


def _cuts_words(step: Mapping[str, Any]) -> bool:
    if step.get("type") == "ByteLevel":
        return step["use_regex"] and not step["add_prefix_space"]
    return _pattern(step) in WORDS


def _cuts_others(step: Mapping[str, Any]) -> bool:
    if step.get("type") == "ByteLevel":
        return not step["add_prefix_space"]
    return step.get("type") == "Digits" or _pattern(step) in OTHERS


def _pattern(step: Mapping[str, Any]) -> str | None:
    """What a Split cuts out; None for any other step."""
    is_split = step.get("type") == "Split" and step["behavior"] == "Isolated" and not step["invert"]
    return step["pattern"].get("Regex") if is_split else None


def _reaches_out(added: "AddedToken") -> bool:
    """Whether an added token may have white space in it, or depends on what stands around it."""
    return added.lstrip or added.rstrip or added.single_word or re.search(r"\s", added.content) is not None
