"""The words of texts, by which rows are compared with each other."""

from hypothesis import example, given
from hypothesis import strategies as st

from tuneyard_trainer.data.words import WORD, words_of


@given(st.text(st.characters(max_codepoint=0x7F)) | st.text())
@example("It's snake_case,\x1fnot 2\tX.")
@example("K is Kelvin")
def test_words_are_those_of_the_expression(text: str) -> None:
    assert words_of(text) == WORD.findall(text.casefold())


def test_words_of() -> None:
    assert words_of("It's snake_case, 2 X.") == ["it", "s", "snake_case", "2", "x"]
    assert words_of("카페 日本") == ["카페", "日", "本"]
