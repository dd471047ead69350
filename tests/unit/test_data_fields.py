"""Every field of a row is read, refused by name, or told in the report."""

import json
from pathlib import Path
from typing import Any

import pytest

from support.datafiles import Json, lines, read
from tuneyard_trainer.runtime.errors import BadInput

EXAMPLES = Path(__file__).parents[2] / "examples" / "data" / "formats"
WHY: Json = {"role": "user", "content": "Why?"}
SO: Json = {"role": "assistant", "content": "So."}
TOOL: Json = {"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}
CALL: Json = {"type": "function", "function": {"name": "now", "arguments": {"zone": "KST"}}}


def system(text: str) -> Json:
    return {"role": "system", "content": text}


def calling(**extra: Any) -> Json:
    return {"role": "assistant", "content": "", **extra}


READ: dict[str, tuple[Json, Json]] = {
    "weight 0": (
        {"messages": [WHY, SO | {"weight": 0}, WHY, SO | {"weight": 1}]},
        {"messages": [WHY, SO | {"untrained": True}, WHY, SO]},
    ),
    "train false": (
        {"messages": [WHY, SO | {"train": False}, WHY, SO]},
        {"messages": [WHY, SO | {"untrained": True}, WHY, SO]},
    ),
    "loss of ms-swift": (
        {"messages": [WHY, SO | {"loss": False}, WHY, SO | {"loss": True}]},
        {"messages": [WHY, SO | {"untrained": True}, WHY, SO]},
    ),
    "a thought": ({"messages": [WHY, SO | {"reasoning_content": "Hm."}]},) * 2,
    "a thought of another name": (
        {"messages": [WHY, SO | {"thinking": "Hm."}]},
        {"messages": [WHY, SO | {"reasoning_content": "Hm."}]},
    ),
    "a thought beside the answer": (
        {"question": "Why?", "answer": "So.", "reasoning": "Hm."},
        {"messages": [WHY, SO | {"reasoning_content": "Hm."}]},
    ),
    "Dolly": (
        {"instruction": "Why?", "context": "It is so.", "response": "So.", "category": "closed_qa"},
        {"messages": [WHY | {"content": "Why?\n\nIt is so."}, SO]},
    ),
    "a question with a context": (
        {"question": "Why?", "context": "It is so.", "answer": "So."},
        {"messages": [WHY | {"content": "Why?\n\nIt is so."}, SO]},
    ),
    "OpenOrca": (
        {"id": "t0.1", "system_prompt": "Be brief.", "question": "Why?", "response": "So."},
        {"messages": [system("Be brief."), WHY, SO]},
    ),
    "alpaca with system and history": (
        {"instruction": "Why?", "input": "", "output": "So.", "system": "Be brief.", "history": [["One?", "1."]]},
        {
            "messages": [
                system("Be brief."),
                WHY | {"content": "One?"},
                SO | {"content": "1."},
                WHY,
                SO,
            ]
        },
    ),
    "history as messages": (
        {"prompt": "Why?", "completion": "So.", "history": [WHY, SO]},
        {"messages": [WHY, SO, WHY, SO]},
    ),
    "history as JSON text": (
        {"query": "Why?", "response": "So.", "history": '[["Why?", "So."]]'},
        {"messages": [WHY, SO, WHY, SO]},
    ),
    "system beside messages": (
        {"system": "Be brief.", "messages": [WHY, SO]},
        {"messages": [system("Be brief."), WHY, SO]},
    ),
    "the same system text twice": (
        {"system": "Be brief.", "messages": [system("Be brief."), WHY, SO]},
        {"messages": [system("Be brief."), WHY, SO]},
    ),
    "developer": ({"messages": [{"role": "developer", "content": "x"}, WHY, SO]}, {"messages": [system("x"), WHY, SO]}),
    "ShareGPT": (
        {"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}], "system": "x"},
        {"messages": [system("x"), WHY, SO]},
    ),
    "ShareGPT's tools": (
        {
            "conversations": [
                {"from": "human", "value": "Why?"},
                {"from": "function_call", "value": '{"name": "now", "arguments": {"zone": "KST"}}'},
                {"from": "observation", "value": "9:00"},
                {"from": "gpt", "value": "So."},
            ],
            "tools": json.dumps([{"name": "now"}]),
        },
        {
            "messages": [WHY, calling(tool_calls=[CALL]), {"role": "tool", "content": "9:00"}, SO],
            "tools": [{"type": "function", "function": {"name": "now"}}],
        },
    ),
    "tool calls": (
        {
            "messages": [
                WHY,
                {"role": "assistant", "content": None, "tool_calls": [CALL | {"id": "c1"}]},
                {"role": "tool", "content": {"at": 9}, "tool_call_id": "c1", "name": "now"},
                SO,
            ],
            "tools": [TOOL],
        },
        {
            "messages": [
                WHY,
                calling(tool_calls=[CALL | {"id": "c1"}]),
                {"role": "tool", "content": '{"at": 9}', "name": "now", "tool_call_id": "c1"},
                SO,
            ],
            "tools": [TOOL],
        },
    ),
    "arguments as JSON text": (
        {"messages": [WHY, calling(tool_calls=[{"function": {"name": "now", "arguments": '{"zone": "KST"}'}}])]},
        {"messages": [WHY, calling(tool_calls=[CALL])]},
    ),
    "function_call": (
        {
            "messages": [WHY, calling(function_call={"name": "now", "arguments": '{"zone": "KST"}'})],
            "functions": [TOOL["function"]],
        },
        {"messages": [WHY, calling(tool_calls=[CALL])], "tools": [TOOL]},
    ),
    "parts": (
        {"messages": [WHY | {"content": [{"type": "text", "text": "Why"}, {"type": "text", "text": "so?"}]}, SO]},
        {"messages": [WHY | {"content": "Why\nso?"}, SO]},
    ),
    "messages as JSON text": ({"messages": json.dumps([WHY, SO])}, {"messages": [WHY, SO]}),
    "prompt and completion as messages": (
        {"prompt": [WHY, SO, WHY], "completion": [SO]},
        {"messages": [WHY | {"untrained": True}, SO | {"untrained": True}, WHY | {"untrained": True}, SO]},
    ),
    "a number": ({"prompt": "Why?", "completion": 3}, {"messages": [WHY, SO | {"content": "3"}]}),
    "true": ({"prompt": "Why?", "completion": True}, {"messages": [WHY, SO | {"content": "true"}]}),
    "an object": ({"prompt": "Why?", "completion": {"ä": [1]}}, {"messages": [WHY, SO | {"content": '{"ä": [1]}'}]}),
    "null and empty fields": (
        {"prompt": "Why?", "completion": "So.", "history": [], "system": "", "tools": None, "messages": None},
        {"messages": [WHY, SO]},
    ),
    "two names of the answer, of which one is empty": (
        {"instruction": "Why?", "output": "", "response": "So."},
        {"messages": [WHY, SO]},
    ),
}


@pytest.mark.parametrize(("row", "expected"), READ.values(), ids=READ)
def test_read(tmp_path: Path, row: Json, expected: Json) -> None:
    examples, reading = read(tmp_path / "x", lines(row))
    assert examples == [expected]
    assert not reading.findings.unread


REFUSED: dict[str, tuple[Json, str]] = {
    "another weight": ({"messages": [WHY, SO | {"weight": 0.5}]}, "message 2: the weight is 0.5"),
    "nothing is trained": ({"messages": [WHY, SO | {"weight": 0}]}, "all answers have the weight 0"),
    "weight of a row": ({"prompt": "Why?", "completion": "So.", "weight": 3}, "the field weight is not read"),
    "two system texts": (
        {"system": "x", "messages": [system("y"), WHY, SO]},
        "the field system and the first message are two",
    ),
    "two names of the system text": (
        {"system": "x", "system_prompt": "y", "messages": [WHY, SO]},
        "the field system_prompt is not read",
    ),
    "context beside messages": ({"context": "x", "messages": [WHY, SO]}, "the field context is not read"),
    "history beside messages": ({"history": [["a", "b"]], "messages": [WHY, SO]}, "the field history is not read"),
    "two answers": ({"prompt": "Why?", "completion": "So.", "answer": "No."}, "the field answer is not read"),
    "two questions": ({"prompt": "Why?", "question": "Who?", "completion": "So."}, "the field question is not read"),
    "choices": ({"question": "Which?", "choices": ["a", "b"], "answer": "a"}, "the field choices is not read"),
    "documents": ({"question": "Why?", "documents": ["x"], "answer": "a"}, "the field documents is not read"),
    "rationale": ({"question": "Why?", "answer": "So.", "rationale": "x"}, "the field rationale is not read"),
    "images": ({"messages": [WHY, SO], "images": ["a.png"]}, "the field images is not read"),
    "image part": (
        {"messages": [WHY | {"content": [{"type": "image_url", "image_url": "x"}]}, SO]},
        "message 1: part 1: the type is 'image_url'",
    ),
    "refusal": (
        {"messages": [WHY, {"role": "assistant", "content": "x", "refusal": "No."}]},
        "message 2: the field ref",
    ),
    "tool calls of the user": ({"messages": [WHY | {"tool_calls": [CALL]}, SO]}, "message 1: the field tool_calls"),
    "a thought of the user": (
        {"messages": [WHY | {"reasoning_content": "x"}, SO]},
        "message 1: the field reasoning_co",
    ),
    "arguments": (
        {"messages": [WHY, calling(tool_calls=[{"function": {"name": "now", "arguments": "{zone"}}])]},
        "message 2: the arguments of the call of now are not JSON",
    ),
    "a call without name": ({"messages": [WHY, calling(tool_calls=[{"id": 1}])]}, "message 2: a tool call has no func"),
    "tools": ({"messages": [WHY, SO], "tools": "now"}, "the field tools is no list"),
    "a pair without a difference": ({"prompt": "Why?", "chosen": "So.", "rejected": "So."}, "chosen and rejected are"),
    "a pair without a prompt": ({"chosen": "So.", "rejected": "No."}, "there is no prompt"),
    "a pair without an answer": ({"prompt": "Why?", "chosen": "", "rejected": "No."}, "the field chosen is missing"),
    "a pair that ends early": ({"chosen": [WHY, SO], "rejected": [WHY]}, "rejected does not end with a message"),
    "a pair with two prompts": (
        {"prompt": "How?", "chosen": [WHY, SO], "rejected": [WHY, SO | {"content": "No."}]},
        "the prompt is not the one in chosen",
    ),
    "half a pair": ({"prompt": "Why?", "chosen": "So.", "completion": "So."}, "the field chosen is not read here"),
    "an empty text": ({"text": " "}, "the field text is missing or empty"),
    "a text with a question": ({"text": "So.", "messages": [WHY, SO], "rejected": "x"}, "the field rejected is not"),
    "history": ({"prompt": "Why?", "completion": "So.", "history": ["x"]}, "entry 1 of history is no pair"),
    "history without answer": (
        {"prompt": "Why?", "completion": "So.", "history": [["x", ""]]},
        "history 1: the answer",
    ),
    "content": ({"messages": [{"role": "user"}, SO]}, "message 1: it has no content"),
    "content of another type": ({"messages": [WHY | {"content": 3}, SO]}, "message 1: the field content is int"),
    "NaN": (
        {"prompt": "Why?", "completion": float("nan")},
        r"the field completion \(float\) cannot be written as JSON",
    ),
    "half a character": ({"prompt": "Why?", "completion": ["\ud800"]}, "the field completion .list. cannot be written"),
    "rows in a field": ({"data": [{"question": "Why?"}]}, "the fields data are of no known format"),
}


@pytest.mark.parametrize(("row", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(tmp_path: Path, row: Json, message: str) -> None:
    with pytest.raises(BadInput, match=rf"s3://data/x\.jsonl, line 1: {message}") as raised:
        read(tmp_path / "x", lines(row))
    assert raised.value.advice.endswith(".")


def test_unread_fields_are_told(tmp_path: Path) -> None:
    row = {"prompt": "Why?", "completion": "So.", "id": 7, "persona_id": 3, "\ud800": 1, "empty": ""}
    chat = {"messages": [WHY | {"name": "Kim"}, SO | {"tokens": 2, "id": 1}], "persona_id": 4}
    _, reading = read(tmp_path / "x", lines(row, chat, chat))
    assert reading.findings.unread == {
        "persona_id": 3,
        "\\ud800": 1,
        "messages[].name": 2,
        "messages[].tokens": 2,
    }


def test_notes(tmp_path: Path) -> None:
    _, reading = read(tmp_path / "x", lines(READ["weight 0"][0], READ["a number"][0], READ["true"][0]))
    assert reading.findings.notes == {
        "answers that are not trained (weight: 0)": 1,
        "answers that were not text, written as JSON": 2,
    }


def test_non_text_fails(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="the field completion is int, not text"):
        read(tmp_path / "x", lines(READ["a number"][0]), clean={"nonText": "fail"})


def test_ignored_fields(tmp_path: Path) -> None:
    row = {"context": "x", "messages": [WHY, SO | {"reasoning_content": "x"}]}
    examples, reading = read(tmp_path / "x", lines(row), ignore=["context", "reasoning_content"])
    assert examples == [{"messages": [WHY, SO]}]
    assert not reading.findings.unread


@pytest.mark.parametrize(
    ("row", "columns", "message"),
    [
        ({"prompt": "Why?", "completion": "So."}, {"prompt": "nowhere"}, "has the column nowhere, which columns gives"),
        ({"q": "Why?", "a": "So."}, {"prompt": "q", "completion": "b"}, "has the column b, which columns gives to com"),
        (
            {"prompt": "Why?", "completion": "So.", "x": "y"},
            {"contxt": "x"},
            "names the field contxt, which the format",
        ),
        ({"messages": [WHY, SO], "x": "y"}, {"prompt": "x"}, "names the field prompt, which"),
    ],
)
def test_wrong_columns(tmp_path: Path, row: Json, columns: Json, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        read(tmp_path / "x", lines(row), columns=columns)


def test_columns(tmp_path: Path) -> None:
    """Of one row only, which is enough; a field whose name is given to another column is told."""
    rows = ({"q": "Why?", "a": "So.", "system": "x", "s": "y"}, {"q": "Why?", "a": "So."})
    columns = {"prompt": "q", "completion": "a", "system": "s"}
    examples, reading = read(tmp_path / "x", lines(*rows), columns=columns)
    assert examples == [{"messages": [system("y"), WHY, SO]}, {"messages": [WHY, SO]}]
    assert reading.findings.unread == {"system (columns takes s)": 1}


def test_formats_are_told(tmp_path: Path) -> None:
    """Rows of several formats in one file are all read, and the report names the first of each."""
    rows = ({"question": "Why?", "answer": "So."}, {"messages": [WHY, SO]}, {"question": "Who?", "answer": "I."})
    examples, reading = read(tmp_path / "x", lines(*rows))
    assert len(examples) == 3
    told = [(seen.format, seen.rows, str(seen.first), seen.fields) for seen in reading.findings.formats.values()]
    assert told == [
        ("prompt-completion", 2, "s3://data/x.jsonl, line 1", "answer, question"),
        ("messages", 1, "s3://data/x.jsonl, line 2", "messages"),
    ]


def test_other_format_than_said(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="line 1: the fields messages are of the format messages, not alpaca"):
        read(tmp_path / "x", lines({"messages": [WHY, SO]}), format="alpaca")


@pytest.mark.parametrize("path", sorted(EXAMPLES.iterdir()), ids=lambda path: path.name)
def test_examples_are_read_whole(tmp_path: Path, path: Path) -> None:
    examples, reading = read(tmp_path / "x", path.read_bytes(), path.name)
    assert len(examples) == reading.findings.rows > 0
    assert not reading.findings.unread
    (seen,) = reading.findings.formats.values()
    assert seen.format == {"tools": "messages", "dolly": "alpaca"}.get(path.stem, path.stem)
