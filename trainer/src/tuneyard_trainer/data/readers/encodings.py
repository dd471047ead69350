"""Text that is not UTF-8."""

from typing import Final

from tuneyard_api import reasons
from tuneyard_trainer.data.examples import RowError

HANGUL: Final = ("\uac00", "\ud7a3")


def not_utf8(error: UnicodeDecodeError, offset: str) -> RowError:
    """The error of a line or a file. `offset` says where in it the first byte is that does not fit."""
    guess = _guess(error.object)
    is_it = f" (it may be {guess})" if guess else ""
    example = guess or "CP949"
    return RowError(
        reasons.INVALID_JSON,
        f"not UTF-8{is_it}",
        f"Write the file as UTF-8, for example with iconv -f {example} -t UTF-8.",
        offset,
    )


def _guess(data: bytes) -> str:
    """CP949 where it gives Korean syllables; other encodings of one byte fit everything, so they are not guessed."""
    try:
        text = data.decode("cp949")
    except UnicodeDecodeError:
        return ""
    return "CP949" if any(HANGUL[0] <= letter <= HANGUL[1] for letter in text) else ""
