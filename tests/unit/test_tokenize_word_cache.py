"""What is tokenized word by word has the tokens that the tokenizers library gives the whole text."""

import random
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from support.tokenizers_made import TEXT, byte_level, sentencepiece
from tuneyard_trainer.data.tokenize import word_cache
from tuneyard_trainer.data.tokenize.encoding import WholeEncoding
from tuneyard_trainer.data.tokenize.word_cache import LONGEST, OTHERS, WORDS, WordCache, splits_at_words

MARKS = ("<s>", "<|im_start|>", "<|im_end|>")
PIECES = [
    *(" ", "  ", "   ", "\n", "\n\n", "\n ", " \n", "\r\n", "\t", "\x0b", "\x1c", "\x85", "\xa0", "\u2028", "\u3000"),
    *("a", "Word", "wORD", "'s", "'LL", "ß", "e\u0301", "\u0301", "\u0338", "안", "一二", "カ", "ー", "🙂", "\u200b"),
    *("7", "2026", "½", "٣", "_", "/", "//", ".", "...", "<", "<b>", "(", "#!", "\\", '"', "…", "—"),
    *MARKS,
    "word" * 30,
]
GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False)


def split(*patterns: str) -> Any:
    """The patterns one after another, then bytes."""
    steps = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
    return pre_tokenizers.Sequence([*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def trained(splitter: Any, normalizer: Any = None) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.normalizer = splitter, normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=700, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    chance = random.Random(1)  # noqa: S311
    mixed = ["".join(chance.choices(PIECES, k=40)) for _ in range(60)]
    tokenizer.train_from_iterator(TEXT * 3 + mixed, trainer)
    tokenizer.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in MARKS])
    return tokenizer


DEEPSEEK = next(pattern for pattern in WORDS if "A-Za-z" in pattern)
TOKENIZERS: dict[str, Callable[[], Tokenizer]] = {
    "gpt2": lambda: trained(GPT2),
    "nfc": lambda: trained(GPT2, normalizers.NFC()),
    "smollm": lambda: trained(pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), GPT2])),
    "deepseek": lambda: trained(split(*sorted(OTHERS), DEEPSEEK)),
    **{f"pattern{number}": partial(trained, split(pattern)) for number, pattern in enumerate(sorted(WORDS))},
}


@cache
def tokenizer_of(name: str) -> Tokenizer:
    return TOKENIZERS[name]()


@pytest.mark.parametrize("name", TOKENIZERS)
@given(text=st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
def test_tokens_are_the_librarys(name: str, text: str) -> None:
    tokenizer = tokenizer_of(name)
    assert splits_at_words(tokenizer)
    encoded = tokenizer.encode(text, add_special_tokens=False)
    expected = WholeEncoding(encoded)
    (found,) = WordCache(tokenizer).encode([text])
    assert list(found.ids) == encoded.ids == expected.ids
    assert found.offsets == encoded.offsets == expected.offsets
    characters = range(len(text) + 2)
    tokens = [encoded.char_to_token(character) for character in characters]
    assert [found.token_at(character) for character in characters] == tokens
    assert [expected.token_at(character) for character in characters] == tokens
    begins = [begin for begin, _ in encoded.offsets]
    later = [sum(begin < character for begin in begins) for character in characters]
    assert [found.first_from(character) for character in characters] == later
    assert [expected.first_from(character) for character in characters] == later


def test_no_white_space_of_the_library_counts_as_a_character_here() -> None:
    characters = [chr(code) for code in range(0x10000) if not 0xD800 <= code < 0xE000]
    white = pre_tokenizers.Split(Regex(r"\s"), "removed")
    parts = [
        part
        for start in range(0, len(characters), 4096)
        for part in white.pre_tokenize_str("".join(characters[start : start + 4096]))
    ]
    theirs = set(characters) - {character for part, _ in parts for character in part}
    assert " " in theirs
    assert [character for character in theirs if not character.isspace()] == []


def test_frequent_words_are_kept_and_long_ones_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = WordCache(tokenizer_of("gpt2"))
    cache.encode([f"one two two {'x' * LONGEST}x one"])
    assert cache._kept.keys() == {"one", " two", " one"}
    (found,) = cache.encode([f"{'x' * LONGEST}x one"])
    assert (found.token_at(0), found.token_at(1), found.first_from(1)) == (0, 1, 1)
    assert cache._kept_places.cache_info().currsize == 0
    monkeypatch.setattr(word_cache, "MOST_WORDS", 4)
    texts = ["one two three", "four five", "two three four"]
    expected = tokenizer_of("gpt2").encode_batch(texts, add_special_tokens=False)
    assert [list(found.ids) for found in cache.encode(texts)] == [each.ids for each in expected]
    assert cache._kept == {}


def added(**flags: Any) -> Tokenizer:
    tokenizer = byte_level(MARKS)
    tokenizer.add_tokens([AddedToken(flags.pop("content", "<x>"), **flags)])
    return tokenizer


OTHER_TOKENIZERS: dict[str, Callable[[], Tokenizer]] = {
    "it prepends a blank": lambda: sentencepiece(MARKS),
    "a mark takes in blanks": lambda: added(rstrip=True),
    "a mark takes in blanks before it": lambda: added(lstrip=True),
    "a mark is a word": lambda: added(single_word=True),
    "a mark has a blank in it": lambda: added(content="end of turn"),
    "its normalizer is not known": lambda: trained(GPT2, normalizers.Strip()),
    "its pattern is not known": lambda: trained(split(r"\w+ \w+")),
    "nothing cuts words": lambda: trained(split(*OTHERS)),
    "nothing cuts at all": lambda: trained(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)),
    "there is no pre-tokenizer": lambda: Tokenizer(models.BPE()),
    "a blank comes first": lambda: trained(pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "what cuts is taken away": lambda: trained(pre_tokenizers.Split(Regex(r"\s"), "removed")),
    "it is no BPE": lambda: Tokenizer(models.WordLevel({"a": 0}, unk_token="a")),
}


@pytest.mark.parametrize("why", OTHER_TOKENIZERS)
def test_other_tokenizers_get_whole_texts(why: str) -> None:
    assert not splits_at_words(OTHER_TOKENIZERS[why]())
