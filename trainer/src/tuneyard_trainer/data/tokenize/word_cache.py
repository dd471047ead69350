"""Tokenizing word by word: the tokens of a word are kept, as most words of a data set come again and again.

This gives the same tokens only where the tokenizer never makes a token across the places at which a text is cut into
words here, and where what stands on one side of such a place changes nothing on the other: see `splits_at_words`.
"""

import json
import re
from array import array
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tuneyard_trainer.data.tokenize.encoding import Encoding, WholeEncoding

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer
    from tokenizers import Encoding as Encoded

# A word begins before a blank that follows anything else, and behind a single line break before a letter or a mark.
# What is rare stands first in a pattern: it is looked for fast.
BEFORE_BLANK: Final = re.compile(r"(?= )(?<=\S)")
LINE_BREAK: Final = re.compile(r"\n(?<=\S\n)(?=[\w<])")
# A blank at which no word begins.
AFTER_BLANK: Final = re.compile(r" (?<=\s )")
# What added tokens look like, mostly. Where they do, no two of them overlap in a text.
ADDED_TOKEN: Final = re.compile(r"<[^<>\s]+>")
SEPARATOR: Final = "\0"
TWICE: Final = 2 * SEPARATOR
# The words that are kept, and the longest: together some 20 MB.
MOST_WORDS: Final = 65_536
LONGEST: Final = 64  # characters
# The words whose tokens' places are kept: where answers begin and end.
MOST_PLACES: Final = 4096
MOST_LONG_PLACES: Final = 2  # of a row, as words are long where a language has no blanks

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


class WordCache:
    """Encodes texts word by word with a tokenizer for which splits_at_words is true."""

    def __init__(self, tokenizer: "Tokenizer") -> None:
        self._tokenizer = tokenizer
        self._alone = tokens_alone(tokenizer)
        self._kept = _Kept(self._encode)
        self._kept_places = lru_cache(MOST_PLACES)(self._encode)
        self._long_places = lru_cache(MOST_LONG_PLACES)(self._encode)

    def encode(self, texts: Sequence[str]) -> list[Encoding]:
        """The tokens of texts, which the library gives too."""
        encoded = list(map(self._encoded, texts))
        if len(self._kept) > MOST_WORDS:
            self._kept.clear()  # frequent ones come back with the next texts
        return encoded

    def _encoded(self, text: str) -> Encoding:
        if SEPARATOR in text:
            return WholeEncoding(self._encode(text))
        split = split_words(text, self._alone)
        return WordEncoding(split, list(map(self._kept.__getitem__, split.split(SEPARATOR))), self._places)

    def _places(self, word: str) -> "Encoded":
        return self._kept_places(word) if len(word) <= LONGEST else self._long_places(word)

    def _encode(self, word: str) -> "Encoded":
        return self._tokenizer.encode(word, add_special_tokens=False)


class _Kept(dict[str, bytes]):
    """The tokens of words as int32; of a word that is missing they are found, and kept unless it is long."""

    def __init__(self, encode: Callable[[str], "Encoded"]) -> None:
        super().__init__()
        self._encode = encode

    def __missing__(self, word: str) -> bytes:
        found = array("i", self._encode(word).ids).tobytes()
        if len(word) <= LONGEST:
            self[word] = found
        return found


def tokens_alone(tokenizer: "Tokenizer") -> frozenset[str]:
    """Added tokens that are looked for before all else, so that each is a word; none where they may overlap."""
    added = tokenizer.get_added_tokens_decoder().values()
    first = {token.content for token in added if not token.normalized}
    found = frozenset(filter(ADDED_TOKEN.fullmatch, first))
    return frozenset() if any("<" in other or ">" in other for other in first - found) else found


def split_words(text: str, alone: frozenset[str]) -> str:
    """The text with a SEPARATOR between its words, to which white space belongs; it has none itself.

    Args:
        alone: added tokens, each of which is a word.
    """

    def apart(found: re.Match[str]) -> str:
        return f"{SEPARATOR}{found[0]}{SEPARATOR}" if found[0] in alone else found[0]

    lines = LINE_BREAK.sub(f"\n{SEPARATOR}", ADDED_TOKEN.sub(apart, text) if alone else text)
    at_each_blank = AFTER_BLANK.search(lines) is None
    split = lines.replace(" ", f"{SEPARATOR} ") if at_each_blank else BEFORE_BLANK.sub(SEPARATOR, lines)
    while TWICE in split:
        split = split.replace(TWICE, SEPARATOR)
    return split.strip(SEPARATOR)


class WordEncoding:
    """The Encoding of a text's words. Places are asked for at few characters, mostly where a word begins."""

    def __init__(self, split: str, ids: Sequence[bytes], encode: Callable[[str], "Encoded"]) -> None:
        """`split` has a SEPARATOR between words, `ids` the tokens of each."""
        self.ids = array("i", b"".join(ids))
        self._split = split
        self._ids = ids
        self._encode = encode

    @property
    def offsets(self) -> list[tuple[int, int]]:
        words = self._split.split(SEPARATOR)
        begins = accumulate(map(len, words), initial=0)
        found = zip(begins, map(self._encode, words), strict=False)
        return [(before + begin, before + end) for before, word in found for begin, end in word.offsets]

    def token_at(self, character: int) -> int | None:
        word = self._word_at(character)
        if word.offset == 0 and self._ids[word.number]:
            return self._tokens_before(word.number)  # where a word begins, its first token does
        found = self._encode(self._text(word)).char_to_token(word.offset)
        return None if found is None else self._tokens_before(word.number) + found

    def first_from(self, character: int) -> int:
        word = self._word_at(character)
        before = self._tokens_before(word.number)
        if word.offset == 0:
            return before
        return before + sum(begin < word.offset for begin, _ in self._encode(self._text(word)).offsets)

    def _word_at(self, character: int) -> "_Word":
        """Before each word there is one separator more, so that it is found by counting them, from the nearer end."""
        last = len(self._ids) - 1
        behind = len(self._split) - last - character  # so many characters
        if character < behind:
            number, begin, end = 0, 0, character + 1
            while found := self._split.count(SEPARATOR, begin, end):
                number, begin, end = number + found, end, end + found
        else:
            number, begin, end = last, len(self._split) - behind, len(self._split)
            while found := self._split.count(SEPARATOR, begin, end):
                number, begin, end = number - found, begin - found, begin
        before = self._split.rfind(SEPARATOR, 0, character + number) + 1
        return _Word(number, before, character + number - before)

    def _text(self, word: "_Word") -> str:
        return self._split[word.begin :].split(SEPARATOR, 1)[0]

    def _tokens_before(self, word: int) -> int:
        """Counted from the end that is nearer: answers mostly end where the text does."""
        if 2 * word < len(self._ids):
            return sum(map(len, self._ids[:word])) // self.ids.itemsize
        return len(self.ids) - sum(map(len, self._ids[word:])) // self.ids.itemsize


class _Word(NamedTuple):
    """The word that a character is in."""

    number: int
    begin: int
    """Among the words with their separators."""
    offset: int
    """Of the character in the word."""


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
