"""Removes characters that are not seen (dataset.clean.controlCharacters).

Those that scripts and emoji are written with stay: the joiners U+200C and U+200D, and the variation selectors.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Final

from tuneyard_trainer.data.cleaning.step import CleaningContext
from tuneyard_trainer.data.source import SourceRow
from tuneyard_trainer.data.texts import change_texts

CHANGE: Final = "controlCharactersRemoved"
# Escape sequences of terminals (ECMA-48); C0 without tab and line ends, DEL, C1; the soft hyphen; zero-width space and
# joiner, marks and overrides of direction; the byte order mark, and code points that are no characters.
UNSEEN: Final = re.compile(
    "\x1b\\[[0-?]*[ -/]*[@-~]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u200b\u200e\u200f\u202a-\u202e"
    "\u2060-\u2064\u2066-\u206f\ufdd0-\ufdef\ufeff\ufff9-\ufffb\ufffe\uffff]"
)


def apply(rows: Iterable[SourceRow], context: CleaningContext) -> Iterator[SourceRow]:
    if context.settings.control_characters == "keep":
        yield from rows
        return
    for row in rows:
        example = change_texts(row.example, without, _may_have)
        yield row if example is row.example else context.change(row, example, CHANGE)


def _may_have(text: str) -> bool:
    """Whether a closer look is worth it: what is not seen is not printable."""
    seen = text.replace("\n", "").replace("\t", "").replace("\r", "")
    return not seen.isprintable() and UNSEEN.search(text) is not None


def without(text: str) -> str:
    """The text without characters that are not seen."""
    return UNSEEN.sub("", text)
