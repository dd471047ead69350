"""Row formats: detection, the examples that they make, and errors."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneyard_api.registry import DATA_FORMATS
from tuneyard_trainer.data.examples import Example, Message, RowError, content
from tuneyard_trainer.data.formats import detect, load_format, renamed
from tuneyard_trainer.data.formats.fields import FieldRules, Fields
from tuneyard_trainer.data.formats.turns import plain_turn, read_turn

Row = dict[str, Any]
ASKED = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]


def read(name: str, row: Row) -> Example:
    return load_format(name).read(Fields(row))


@pytest.mark.parametrize(
    ("row", "name", "messages"),
    [
        ({"messages": ASKED}, "messages", ASKED),
        ({"messages": [{"role": "system", "content": "Be brief."}, *ASKED]}, "messages", None),
        ({"prompt": "Why?", "completion": "So."}, "prompt-completion", ASKED),
        ({"question": "Why?", "answer": "So.", "id": 7}, "prompt-completion", ASKED),
        ({"instruction": "Why?", "response": "So."}, "prompt-completion", ASKED),
        ({"input": "Why?", "output": "So."}, "prompt-completion", ASKED),
        ({"instruction": "Why?", "output": "So."}, "alpaca", ASKED),
        ({"instruction": "Why?", "input": "", "output": "So."}, "alpaca", ASKED),
        ({"system": "Be brief.", "prompt": "Why?", "completion": "So."}, "prompt-completion", None),
    ],
)
def test_detect_and_read(row: Row, name: str, messages: list[Row] | None) -> None:
    assert detect(row) == name
    brief = [{"role": "system", "content": "Be brief."}, *ASKED]
    assert content(read(name, row)) == (messages or brief)


def test_alpaca_input() -> None:
    row = {"instruction": "Translate.", "input": "Hallo", "output": "Hello"}
    assert content(read("alpaca", row))[0]["content"] == "Translate.\n\nHallo"


@pytest.mark.parametrize(
    ("name", "row", "reason", "expected"),
    [
        ("messages", {"messages": []}, "InvalidRow", "messages"),
        ("messages", {"messages": "Why?"}, "InvalidRow", "messages"),
        ("messages", {"messages": ["Why?"]}, "InvalidRow", "message 1"),
        ("messages", {"messages": [{"role": "bot", "content": "x"}]}, "InvalidRow", "'bot'"),
        ("messages", {"messages": [{"role": ["user"], "content": "x"}]}, "InvalidRow", "role"),
        ("messages", {"messages": [{"role": "user", "content": ["x"]}]}, "InvalidRow", "content"),
        ("messages", {"messages": ASKED[:1]}, "MissingAnswer", "user"),
        ("messages", {"messages": [ASKED[0], {"role": "assistant", "content": " "}]}, "MissingAnswer", "message 2"),
        ("messages", {"messages": [ASKED[0], {"role": "assistant"}]}, "MissingAnswer", "message 2"),
        ("prompt-completion", {"prompt": "Why?"}, "MissingAnswer", "completion"),
        ("prompt-completion", {"question": "Why?", "answer": None}, "MissingAnswer", "answer"),
        ("prompt-completion", {"question": "", "answer": "So."}, "InvalidRow", "question"),
        ("prompt-completion", {"question": 3, "answer": "So."}, "InvalidRow", "int"),
        ("prompt-completion", {"question": "Why?", "answer": "\ud800"}, "InvalidRow", "position 0"),
        ("alpaca", {"instruction": "Why?", "output": ""}, "MissingAnswer", "output"),
        ("alpaca", {"instruction": " ", "input": "x", "output": "So."}, "InvalidRow", "instruction"),
    ],
)
def test_invalid_row(name: str, row: Row, reason: str, expected: str) -> None:
    with pytest.raises(RowError) as raised:
        read(name, row)
    assert raised.value.reason == reason
    assert expected in raised.value.message
    assert raised.value.advice


def test_unknown_format() -> None:
    with pytest.raises(RowError, match="title, txt") as raised:
        detect({"title": "a", "txt": "b"})
    for name in DATA_FORMATS:
        assert load_format(name).SHAPE in raised.value.advice


@pytest.mark.parametrize(
    ("row", "columns", "named"),
    [
        ({"q": "Why?", "a": "So."}, {"prompt": "q", "completion": "a"}, {"prompt": "Why?", "completion": "So."}),
        # The two names are swapped in the file.
        ({"prompt": "So.", "completion": "Why?"}, {"prompt": "completion", "completion": "prompt"},
         {"prompt": "Why?", "completion": "So."}),
        ({"q": "Why?"}, {"prompt": "q", "completion": "a"}, {"prompt": "Why?"}),
        ({"prompt": "Why?", "id": 1}, {}, {"prompt": "Why?", "id": 1}),
    ],
)  # fmt: skip
def test_columns(row: Row, columns: dict[str, str], named: Row) -> None:
    assert renamed(row, columns) == named


ODD: st.SearchStrategy[Any] = st.sampled_from(
    [None, "", " ", "user", "User", "human", "assistant", "system", "tool", "\ud800", 7, [], {}]
)


@given(st.dictionaries(st.sampled_from(["role", "content", "weight"]), ODD | st.text(max_size=4)))
def test_a_plain_message_is_read_as_any_other(message: Row) -> None:
    plain = plain_turn(message, Fields({}))
    if plain is not None:
        assert plain == read_turn(Fields(message))


def test_which_messages_are_plain() -> None:
    assert plain_turn(ASKED[0], Fields({})) == Message("user", "Why?")
    assert plain_turn(ASKED[0], Fields({}, FieldRules(ignore=frozenset({"content"})))) is None
    assert plain_turn(ASKED[0] | {"weight": 0}, Fields({})) is None
    assert plain_turn("Why?", Fields({})) is None
