"""Mutations of files: a few random changes to bytes, to the words of a text, or to the values of a JSON document."""

import json
import random
from collections.abc import Callable, Sequence
from typing import Any, Final

Mutation = Callable[[bytes, random.Random], bytes]

# What people and tools leave in the place of a file.
IMPOSTORS: Final = (
    b"",
    b"\n",
    b"null",
    b"[]",
    b"{}",
    b"0",
    b'"text"',
    b"NaN",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    b"<!DOCTYPE html><html></html>",
    b"PK\x03\x04\x14\x00",
    b"\x1f\x8b\x08\x00",
    b"\xff\xfe{\x00}\x00",
    b"\xef\xbb\xbf{}",
    b"[" * 50_000,
    b'{"a":' * 50_000,
    b"\x00" * 4096,
)
PIECES: Final = (
    *(
        b"\xef\xbb\xbf",
        b"\xff",
        b"\xed\xa0\x80",
        b"\x00",
        b"\r\n",
        b",",
        b'"',
        b"{",
        b"}",
        b"[",
        b"]",
        b"\\",
        b"\\ud800",
    ),
    *(b"1e999", b"NaN", b"-Infinity", b"9" * 5000, b"null", b"true", b"\xe2\x80\xa8", b"\xf0\x9f\x98\x80", b"\\u0000"),
)
VALUES: Final[tuple[Any, ...]] = (
    *(None, True, False, 0, 1, -1, 2, 7, 64, 2**31, 2**63, 2**64, 2**70, -(2**70), 0.5, 1e308, -0.0, float("nan")),
    *(
        float("inf"),
        "",
        " ",
        "a",
        "\x00",
        "\ud800",
        "64",
        "null",
        "../../x",
        "s3://b/c",
        "é" * 9,
        "x" * 5000,
        "{{ 1 }}",
    ),
    *([], {}, [None], [[]], [1, "a"], {"": ""}, {"a": None}, [{}], {"a": {"b": []}}, ["a"] * 300),
)


def bytes_changed(data: bytes, dice: random.Random) -> bytes:
    """One change at a random place."""
    at = dice.randrange(len(data) + 1)
    length = min(len(data) - at, dice.choice((1, 1, 2, 8, 64, 1024)))
    to = dice.randrange(len(data) + 1)
    before, piece, after = data[:at], data[at : at + length], data[at + length :]
    changed = (
        before,
        before + after,
        before + piece * 2 + after,
        before + dice.choice(PIECES) + after,
        before + dice.randbytes(length) + after,
        data[:to] + piece + data[to:],
        before + dice.choice(PIECES) + piece + after,
    )
    return dice.choice(changed)


def json_changed(data: bytes, dice: random.Random) -> bytes:
    """One change of a value, a key or the order of the document."""
    document = json.loads(data)
    places = list(_places(document))
    if not places:
        return bytes_changed(data, dice)
    holder, key = dice.choice(places)
    match dice.randrange(6):
        case 0:
            del holder[key]
        case 1:
            other, name = dice.choice(places)
            if other is not holder:
                holder[key] = json.loads(json.dumps(other[name]))
        case 2 if isinstance(holder, dict):
            holder[dice.choice((f"{key}_", str(key).upper(), "", "type", dice.choice(places)[1]))] = holder.pop(key)
        case 3:
            holder[key] = [holder[key]]
        case _:
            holder[key] = dice.choice(VALUES)
    return json.dumps(document).encode()


def _places(document: Any) -> list[tuple[Any, Any]]:
    """Every container with each of its keys."""
    found: list[tuple[Any, Any]] = []
    pending = [document]
    while pending:
        item = pending.pop()
        keys = list(item) if isinstance(item, dict) else range(len(item)) if isinstance(item, list) else ()
        # Thousands of entries of a vocabulary would hide everything else.
        for key in list(keys)[:40]:
            found.append((item, key))
            pending.append(item[key])
    return found


def spliced(words: Sequence[str]) -> Mutation:
    """A mutation that puts a word of a language somewhere into a text, or in place of a piece of it."""

    def change(data: bytes, dice: random.Random) -> bytes:
        text = data.decode(errors="replace")
        at = dice.randrange(len(text) + 1)
        length = dice.choice((0, 0, 1, 4, 16))
        return (text[:at] + dice.choice(words) + text[at + length :]).encode()

    return change


def mutated(data: bytes, dice: random.Random, mutations: Sequence[Mutation]) -> bytes:
    """The file after one to four changes, or something else in its place."""
    if dice.random() < 0.01:
        return dice.choice(IMPOSTORS)
    for _ in range(dice.choice((1, 1, 1, 2, 2, 3, 4))):
        mutation = dice.choice(mutations)
        try:
            data = mutation(data, dice)
        except (ValueError, RecursionError, UnicodeError, TypeError):  # it is no longer of its kind
            data = bytes_changed(data, dice)
    return data
