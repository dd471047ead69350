"""Data files and models that prepare is given."""

import gzip
import json
from typing import Any

Json = dict[str, Any]


def rows(count: int, start: int = 0) -> list[Json]:
    return [
        {"question": f"What is {number}?", "answer": f"A number, {number}."} for number in range(start, start + count)
    ]


def lines(given: list[Json]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in given).encode()


GOOD = lines(rows(40))

# Never ends a turn with a token.
ENDLESS = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
LAST_ANSWER_ONLY = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if loop.last or m.role == 'user' %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TURNS: list[Json] = [
    {
        "messages": [
            {"role": "user", "content": f"What is {number}?"},
            {"role": "assistant", "content": "A number."},
            {"role": "user", "content": "Sure?"},
            {"role": "assistant", "content": f"Yes, {number}."},
        ]
    }
    for number in range(40)
]

FILES: dict[str, bytes] = {
    "turns.jsonl": lines(TURNS),
    "good.jsonl": GOOD,
    "empty.jsonl": b"",
    "blank.jsonl": b"\n\n  \n",
    "broken.jsonl": lines(rows(2)) + b'{"question": "What\n' + GOOD,
    "latin1.jsonl": lines(rows(1)) + '{"question": "Größe?", "answer": "a"}\n'.encode("latin-1"),
    "list.jsonl": b'["question", "answer"]\n',
    "no-answer.jsonl": lines(rows(1)) + b'{"question": "Why?", "answer": " "}\n',
    "answer-gone.jsonl": lines(rows(3)) + b'{"question": "Why?"}\n',
    "no-assistant.jsonl": b'{"messages": [{"role": "user", "content": "Why?"}]}\n',
    "unknown.jsonl": b'{"body": "just text"}\n',
    "number.jsonl": b'{"question": "What?", "answer": 3}\n',
    "twice.jsonl": GOOD + lines(rows(5)),
    "long.jsonl": lines([*rows(3), {"question": "long", "answer": "x" * 400}]),
    "cut.jsonl.gz": gzip.compress(GOOD)[:-12],
    "folder/one.jsonl": lines(rows(25)),
    "folder/two.jsonl.gz": gzip.compress(lines(rows(15, start=25))),
    "folder/README.md": b"not data",
    "some-bad.jsonl": GOOD
    + b'{"question": "Why?"}\n{"question": "\xff"}\n{"question": "A tie?", "answer": "\\ud800"}\n',
    "own-names.jsonl": lines([{"frage": row["question"], "antwort": row["answer"]} for row in rows(40)]),
    "own-names-held-out.jsonl": lines([{"frage": row["question"], "antwort": row["answer"]} for row in rows(4, 90)]),
    "page.jsonl": b"<!DOCTYPE html><html><body>Log in</body></html>",
    "marked/": b"",
    "marked/rows.csv": b"question,answer\r\n" + b"".join(b"Why %d?,So.\r\n" % number for number in range(40)),
    "only-marker/": b"",
    "archive/rows.zip": b"PK\x03\x04",
}
MODELS: dict[str, Json] = {
    "good": {"plain": True},
    "loaded": {},  # its tokenizer is loaded by transformers
    "no-template": {"template": None},
    "no-weights": {"weights": False},
    "broken-template": {"template": "{% for message in messages %}"},
    "narrow": {"intermediate_size": 100},
}
