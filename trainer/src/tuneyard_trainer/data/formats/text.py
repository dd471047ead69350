"""text: {"text": "..."}, documents for continued pre-training: every token of them is trained."""

from collections.abc import Mapping
from typing import Any, Final

from tuneyard_trainer.data.examples import Text
from tuneyard_trainer.data.formats.fields import Fields, missing_answer

FIELD: Final = "text"
SHAPE: Final = '{"text"}'


def matches(fields: Mapping[str, Any]) -> bool:
    return FIELD in fields


def read(fields: Fields) -> Text:
    text = fields.text(FIELD)
    if not text.strip():
        missing_answer(fields, f"the field {FIELD} is missing or empty")
    return Text(text)
