"""Rows and texts as reports show them: their beginning, printable on every console."""

import json
from typing import Any, Final

from tuneyard_trainer.runtime.errors import printable

CHARACTERS: Final = 1000


def excerpt(value: Any, characters: int = CHARACTERS) -> str:
    """A text as it is, anything else as JSON; the rest of a long one is counted."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    more = len(text) - characters
    return printable(f"{text[:characters]} ... ({more} more characters)" if more > 0 else text)
