"""What is tokenized word by word has the tokens that the tokenizers library gives the whole text."""

import random
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from support.tokenizers_made import TEXT, byte_level, sentencepiece
from tuneyard_trainer.data.tokenize import word_cache
from tuneyard_trainer.data.tokenize.word_cache import LONGEST, OTHERS, WORDS, WordCache, splits_at_words

MARKS = ("<s>", "<|im_start|>", "<|im_end|>")
PIECES = [
    *(
        " ",
        "  ",
        "   ",
        "\n",
        "\n\n",
        "\n ",
        " \n",
        "\r\n",
        "\t",
        "\u00a0",
        "\u0085",
        "\u2028",
        "\u3000",
        "\x1c",
        "\x0b",
    ),
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


TOKENIZERS = {
    "gpt2": trained(GPT2),
    "nfc": trained(GPT2, normalizers.NFC()),
    "smollm": trained(pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), GPT2])),
    **{f"pattern{number}": trained(split(pattern)) for number, pattern in enumerate(sorted(WORDS))},
    "deepseek": trained(split(*sorted(OTHERS), next(each for each in WORDS if "A-Za-z" in each))),
}


@pytest.mark.parametrize("name", TOKENIZERS)
@given(text=st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
def test_tokens_are_the_librarys(name: str, text: str) -> None:
    tokenizer = TOKENIZERS[name]
    assert splits_at_words(tokenizer)
    expected = tokenizer.encode(text, add_special_tokens=False)
    (found,) = WordCache(tokenizer).encode([text])
    assert found.ids == expected.ids
    assert found.offsets == expected.offsets
    assert [found.token_to_chars(number) for number in range(len(found.ids))] == expected.offsets
    places = [found.char_to_token(number) for number in range(len(text) + 2)]
    assert places == [expected.char_to_token(number) for number in range(len(text) + 2)]


def test_no_white_space_of_the_library_counts_as_a_character_here() -> None:
    characters = "".join(chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000)
    parts = pre_tokenizers.Split(Regex(r"\s"), "removed").pre_tokenize_str(characters)
    theirs = set(characters) - {character for part, _ in parts for character in part}
    assert " " in theirs
    assert [character for character in theirs if not character.isspace()] == []


def test_frequent_words_are_kept_and_long_ones_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = WordCache(TOKENIZERS["gpt2"])
    cache.encode([f"one two two {'x' * LONGEST}x one"])
    assert cache._kept.keys() == {"one", " two", " one"}
    monkeypatch.setattr(word_cache, "MOST_WORDS", 4)
    texts = ["one two three", "four five", "two three four"]
    expected = TOKENIZERS["gpt2"].encode_batch(texts, add_special_tokens=False)
    assert [found.ids for found in cache.encode(texts)] == [each.ids for each in expected]
    assert cache._kept == {}


def added(**flags: Any) -> Tokenizer:
    tokenizer = byte_level(MARKS)
    tokenizer.add_tokens([AddedToken(flags.pop("content", "<x>"), **flags)])
    return tokenizer


OTHER_TOKENIZERS = {
    "it prepends a blank": sentencepiece(MARKS),
    "a mark takes in blanks": added(rstrip=True),
    "a mark takes in blanks before it": added(lstrip=True),
    "a mark is a word": added(single_word=True),
    "a mark has a blank in it": added(content="end of turn"),
    "its normalizer is not known": trained(GPT2, normalizers.Strip()),
    "its pattern is not known": trained(split(r"\w+ \w+")),
    "nothing cuts words": trained(split(*OTHERS)),
    "nothing cuts at all": trained(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)),
    "there is no pre-tokenizer": Tokenizer(models.BPE()),
    "a blank comes first": trained(pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "what cuts is taken away": trained(pre_tokenizers.Split(Regex(r"\s"), "removed")),
    "it is no BPE": Tokenizer(models.WordLevel({"a": 0}, unk_token="a")),
}


@pytest.mark.parametrize("why", OTHER_TOKENIZERS)
def test_other_tokenizers_get_whole_texts(why: str) -> None:
    assert not splits_at_words(OTHER_TOKENIZERS[why])
