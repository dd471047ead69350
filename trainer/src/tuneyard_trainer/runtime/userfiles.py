"""Files that a user has brought: read here, so that whatever is wrong with one is told with its name.

A file that is no JSON is often something else altogether: a pointer that Git LFS left in its place, a web page, an
archive. That is said first, because the parser's message would mislead.
"""

import codecs
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from tuneyard_api import reasons
from tuneyard_trainer.runtime.errors import BadInput, printable

# Larger JSON files than this belong to no model: the index of one with a million tensors has about 100 MB.
JSON_BYTES: Final = 256 * 2**20
HEAD_BYTES: Final = 256
"""So many bytes of a file tell what it is."""

LFS_ADVICE: Final = "Fetch the real files (git lfs pull, or hf download), and upload them again."
UPLOAD_ADVICE: Final = "Upload the file again from where the model comes from."


class Mistaken(NamedTuple):
    """Something else in the place of a file."""

    what: str
    """Follows the file's name, as in `x.json is a pointer of Git LFS`."""
    advice: str


# By the first bytes, after white space.
_BEGINNINGS: Final[tuple[tuple[bytes, Mistaken], ...]] = (
    (b"version https://git-lfs.github.com/spec/", Mistaken("is a pointer of Git LFS, not the file itself", LFS_ADVICE)),
    (b"<!doctype", Mistaken("is a web page", "Download the file itself, not the page that shows it.")),
    (b"<html", Mistaken("is a web page", "Download the file itself, not the page that shows it.")),
    (b"<?xml", Mistaken("is an XML document", UPLOAD_ADVICE)),
    (b"\x1f\x8b", Mistaken("is compressed with gzip", "Upload it uncompressed.")),
    (b"PK\x03\x04", Mistaken("is a ZIP archive", "Upload what is in it.")),
)


def mistaken(head: bytes) -> Mistaken | None:
    """What a file is that begins like this, if that is nothing that belongs to a model."""
    if not head:
        return Mistaken("is empty (0 bytes)", UPLOAD_ADVICE)
    begins = head.lstrip()[:HEAD_BYTES].lower()
    return next((found for beginning, found in _BEGINNINGS if begins.startswith(beginning.lower())), None)


def read_object(path: Path, name: str, reason: str = reasons.INVALID_MODEL) -> dict[str, Any]:
    """The JSON object in a file.

    Args:
        name: how messages name the file: its URI.

    Raises:
        BadInput: it is something else; says where in the file.
    """
    if path.stat().st_size > JSON_BYTES:
        raise BadInput(reason, f"{name} is larger than {JSON_BYTES // 2**20} MiB", UPLOAD_ADVICE)
    return parse_object(path.read_bytes(), name, reason)


def read_text(path: Path, name: str, reason: str = reasons.INVALID_MODEL) -> str:
    """The text in a file; see read_object."""
    data = path.read_bytes()
    if found := mistaken(data[:HEAD_BYTES]):
        raise BadInput(reason, f"{name} {found.what}", found.advice)
    return _text(data, name, reason)


def parse_object(data: bytes, name: str, reason: str = reasons.INVALID_MODEL) -> dict[str, Any]:
    """The JSON object in `data`; see read_object."""
    if found := mistaken(data[:HEAD_BYTES]):
        raise BadInput(reason, f"{name} {found.what}", found.advice)
    try:
        value = json.loads(_text(data, name, reason))
    except json.JSONDecodeError as error:
        raise BadInput(
            reason,
            f"{name}, line {error.lineno}, column {error.colno}: not JSON: {error.msg.removesuffix(' at')}",
            "Correct the file there (a missing or an extra comma or quote is the usual cause), or upload it again.",
        ) from error
    except (RecursionError, ValueError) as error:  # ValueError: a number of thousands of digits
        what = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise BadInput(reason, f"{name} cannot be read as JSON: {what}", UPLOAD_ADVICE) from error
    if not isinstance(value, dict):
        raise BadInput(reason, f"{name} holds {_KINDS[type(value)]} instead of an object {{...}}", UPLOAD_ADVICE)
    _check_values(value, name, reason)
    return value


_KINDS: Final = {
    list: "an array",
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}


def _text(data: bytes, name: str, reason: str) -> str:
    if data.startswith(codecs.BOM_UTF8):
        raise BadInput(
            reason,
            f"{name} begins with a byte order mark (BOM), which transformers and vLLM do not read",
            "Save it as UTF-8 without BOM.",
        )
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise BadInput(reason, f"{name}, byte {error.start + 1}: not UTF-8", "Save it as UTF-8.") from error


def _check_values(value: dict[str, Any], name: str, reason: str) -> None:
    """Raises BadInput for what Python's parser lets pass and other programs do not."""
    for field, item in _leaves(value):
        if isinstance(item, float) and not math.isfinite(item):
            raise BadInput(reason, f"{name}: the field {field} is {item}", "Write a number there.")
        if isinstance(item, str) and not item.isascii() and any("\ud800" <= letter <= "\udfff" for letter in item):
            raise BadInput(reason, f"{name}: the field {printable(field)} has half a character", "Correct the text.")


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value in a JSON document with its path, and every key as a value of its own."""
    pending: list[tuple[str, Any]] = [(path, value)]
    while pending:
        path, item = pending.pop()
        if isinstance(item, dict):
            for key, below in item.items():
                yield path, key
                pending.append((f"{path}.{key}" if path else key, below))
        elif isinstance(item, list):
            pending += [(f"{path}[{number}]", below) for number, below in enumerate(item)]
        else:
            yield path, item
