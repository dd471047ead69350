"""Row formats: how each becomes messages, how one is recognised, and what is said about a row that is wrong."""

from typing import Any

import pytest

from tuneyard_trainer.data.examples import RowError
from tuneyard_trainer.data.formats import FORMATS, detect, renamed

Row = dict[str, Any]
ASKED = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]


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
def test_a_row_is_recognised_and_read(row: Row, name: str, messages: list[Row] | None) -> None:
    assert detect(row) == name
    brief = [{"role": "system", "content": "Be brief."}, *ASKED]
    assert FORMATS[name].read(row) == (messages or brief)


def test_alpaca_puts_the_input_under_the_instruction() -> None:
    row = {"instruction": "Translate.", "input": "Hallo", "output": "Hello"}
    assert FORMATS["alpaca"].read(row)[0]["content"] == "Translate.\n\nHallo"


@pytest.mark.parametrize(
    ("name", "row", "reason", "says"),
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
        ("prompt-completion", {"question": "Why?", "answer": 3}, "InvalidRow", "int"),
        ("prompt-completion", {"question": "Why?", "answer": "\ud800"}, "InvalidRow", "position 0"),
        ("alpaca", {"instruction": "Why?", "output": ""}, "MissingAnswer", "output"),
        ("alpaca", {"instruction": " ", "input": "x", "output": "So."}, "InvalidRow", "instruction"),
    ],
)
def test_a_wrong_row_is_named(name: str, row: Row, reason: str, says: str) -> None:
    with pytest.raises(RowError) as raised:
        FORMATS[name].read(row)
    assert raised.value.reason == reason
    assert says in raised.value.message
    assert raised.value.advice


def test_an_unknown_row_is_told_the_known_formats() -> None:
    with pytest.raises(RowError, match="text, title") as raised:
        detect({"title": "a", "text": "b"})
    for each in FORMATS.values():
        assert each.shape in raised.value.advice


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
def test_columns_are_renamed(row: Row, columns: dict[str, str], named: Row) -> None:
    assert renamed(row, columns) == named
