"""Repairs text that was decoded with a wrong encoding, and composes characters (dataset.clean.encoding).

The repair is ftfy's (https://ftfy.readthedocs.io), of which only the repair of encodings is used: quotes, ligatures,
full-width characters and HTML are as the author wrote them.
"""

import unicodedata
from collections.abc import Iterable, Iterator
from typing import Final

from ftfy import TextFixerConfig, fix_text
from ftfy.badness import is_bad

from tuneyard_trainer.data.cleaning.step import CleaningContext
from tuneyard_trainer.data.source import SourceRow
from tuneyard_trainer.data.texts import change_texts, whole

CHANGE: Final = "encodingRepaired"
REASON: Final = "lostCharacters"
LOST: Final = "\ufffd"
FORM: Final = "NFC"
CONFIG: Final = TextFixerConfig(
    unescape_html=False,
    remove_terminal_escapes=False,
    fix_latin_ligatures=False,
    fix_character_width=False,
    uncurl_quotes=False,
    fix_line_breaks=False,
    remove_control_chars=False,
    normalization=FORM,
    explain=False,
)


def apply(rows: Iterable[SourceRow], context: CleaningContext) -> Iterator[SourceRow]:
    if context.settings.encoding == "keep":
        yield from rows
        return
    for row in rows:
        example = change_texts(row.example, repaired, _may_be_wrong)
        repaired_row = row if example is row.example else context.change(row, example, CHANGE)
        if LOST in whole(example):
            context.drop(repaired_row, REASON, "characters are lost (U+FFFD)")
        else:
            yield repaired_row


def repaired(text: str) -> str:
    """The text as it was meant."""
    return fix_text(text, CONFIG) if _may_be_wrong(text) else text


def _may_be_wrong(text: str) -> bool:
    return not text.isascii() and (not unicodedata.is_normalized(FORM, text) or is_bad(text))
