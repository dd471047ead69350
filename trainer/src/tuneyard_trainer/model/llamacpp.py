"""llama.cpp beside the trainer: where it is, and what its converter knows."""

import ast
import hashlib
import json
import os
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tuneyard_api import names

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# The pattern by which GPT-2 splits text is built into tokenizers' ByteLevel; llama.cpp has it under this name.
GPT2_SPLIT: Final = "gpt-2"


def llamacpp_home() -> Path | None:
    """The folder with bin/, lib/, python/ and the converter; None where llama.cpp is not installed."""
    found = os.environ.get(names.ENV_LLAMACPP)
    return Path(found) if found else None


@cache
def known_architectures(home: Path) -> frozenset[str]:
    """The classes of transformers that the converter converts: the keys of its table, read without running it."""
    for node in ast.parse((home / "conversion" / "__init__.py").read_text()).body:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "TEXT_MODEL_MAP" and node.value:
            return frozenset(ast.literal_eval(node.value))
    raise LookupError(f"{home}/conversion/__init__.py has no TEXT_MODEL_MAP: this llama.cpp is of another version")


@cache
def known_splits(home: Path) -> tuple[str, frozenset[str]]:
    """How the converter recognises a byte-level tokenizer: a text, and the hashes of the tokens that it may give."""
    source = (home / "conversion" / "base.py").read_text()
    text = re.search(r"^\s+chktxt = (.+)$", source, re.MULTILINE)
    if text is None:
        raise LookupError(f"{home}/conversion/base.py has no chktxt: this llama.cpp is of another version")
    return ast.literal_eval(text[1]), frozenset(re.findall(r'chkhsh == "([0-9a-f]{64})"', source))


def is_known_tokenizer(file: Path, home: Path) -> bool:
    """Whether the converter recognises the tokenizer, or it splits as GPT-2 does.

    Only byte-level BPE is asked for: all other kinds name their splits themselves.
    """
    document: dict[str, Any] = json.loads(file.read_text())
    if not is_byte_level(document) or splits_as_gpt2(document):
        return True
    from tokenizers import Tokenizer  # noqa: PLC0415 - so that importing this module stays cheap

    text, known = known_splits(home)
    return bool(known & set(_hashes(Tokenizer.from_file(str(file)), text)))


def _hashes(tokenizer: "Tokenizer", text: str) -> list[str]:
    """As the converter computes it, which asks transformers: it may or may not add the special tokens."""
    tokens = [tokenizer.encode(text, add_special_tokens=special).ids for special in (True, False)]
    return [hashlib.sha256(str(ids).encode()).hexdigest() for ids in tokens]


def is_byte_level(document: dict[str, Any]) -> bool:
    """Whether a tokenizer.json is BPE over bytes."""
    model = document.get("model", {})
    is_bpe = model.get("type", "BPE") == "BPE" and not model.get("byte_fallback")
    return is_bpe and any(step.get("type") == "ByteLevel" for step in _steps(document))


def splits_as_gpt2(document: dict[str, Any]) -> bool:
    """Whether ByteLevel with its own pattern is all that splits the text."""
    steps = _steps(document)
    return [step.get("type") for step in steps] == ["ByteLevel"] and bool(steps[0].get("use_regex", True))


def _steps(document: dict[str, Any]) -> list[dict[str, Any]]:
    splitter = document.get("pre_tokenizer") or {}
    steps = splitter.get("pretokenizers") if splitter.get("type") == "Sequence" else [splitter]
    return list(steps or ())
