"""Examples of every kind as JSON, and the keys that find duplicates."""

import json
import unicodedata
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tuneyard_trainer.data.examples import (
    BLANKS,
    Chat,
    Example,
    Message,
    Preference,
    Text,
    content,
    content_key,
    from_json,
    single_spaced,
    to_json,
)

texts = st.text(st.characters(codec="utf-8"))
extras = st.dictionaries(st.sampled_from(["name", "tool_calls", "weight"]), st.integers() | st.lists(texts))
messages = st.lists(st.builds(Message, texts, texts, extras, st.booleans())).map(tuple)
tools = st.lists(st.dictionaries(texts, texts)).map(tuple)
examples = st.one_of(
    st.builds(Chat, messages, tools), st.builds(Text, texts), st.builds(Preference, messages, messages, messages)
)


@given(examples)
def test_json_round_trip(example: Example) -> None:
    assert from_json(json.loads(json.dumps(to_json(example)))) == example


def test_key_of_a_chat_is_stable() -> None:
    chat = Chat((Message("user", "Why?"), Message("assistant", "ä")))
    assert content(chat) == [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "ä"}]
    assert content_key(chat).hex() == "021786893d3df0e9a247834f82938403"


def squeezed(value: Any) -> Any:
    """Without white space and case."""
    if isinstance(value, str):
        return "".join(unicodedata.normalize("NFC", value).casefold().split()).replace("\0", "")
    if isinstance(value, dict):
        return {name: squeezed(item) for name, item in value.items()}
    return [squeezed(item) for item in value] if isinstance(value, (list, tuple)) else value


@given(st.lists(examples, max_size=6, unique_by=lambda example: json.dumps(squeezed(content(example)), sort_keys=True)))
def test_keys_differ(different: list[Example]) -> None:
    assert len({content_key(example) for example in different}) == len(different)


def test_key_tells_what_is_trained() -> None:
    trained, context = Message("assistant", "a"), Message("assistant", "a", trained=False)
    assert content_key(Chat((trained,))) != content_key(Chat((context,)))
    assert content_key(Chat((trained,), ({"name": "now"},))) != content_key(Chat((trained,)))
    assert context.to_json() == trained.to_json(), "the template is given the same"


def test_key_ignores_the_order_of_fields() -> None:
    one, other = ({"name": "x", "weight": 1}, {"weight": 1, "name": "x"})
    assert content_key(Chat((Message("user", "a", one),))) == content_key(Chat((Message("user", "a", other),)))


@given(st.text("ab \0" + BLANKS))
def test_white_space_of_ascii(text: str) -> None:
    assert set(BLANKS) | {" "} == {character for character in map(chr, range(128)) if character.isspace()}
    assert single_spaced(text) == " ".join(text.split())
