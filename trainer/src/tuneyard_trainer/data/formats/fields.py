"""Fields of a row, checked: what the formats have in common."""

from collections.abc import Mapping
from typing import Any

from tuneyard_api import reasons
from tuneyard_trainer.data.examples import Message, RowError


def text_of(fields: Mapping[str, Any], name: str) -> str:
    """A field that must hold text; the empty string when it is absent or null.

    Raises:
        RowError: it holds something else, or half a character (a lone surrogate).
    """
    value = fields.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise RowError(
            reasons.INVALID_ROW,
            f"the field {name} is {type(value).__name__}, not text",
            f"Make {name} a string",
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise RowError(
            reasons.INVALID_ROW,
            f"the field {name} holds half a character at position {error.start}",
            "Write the file as UTF-8 again",
        ) from error
    return value


def question_and_answer(question: str, answer: str, question_field: str, answer_field: str) -> tuple[Message, Message]:
    """A message of the user and the assistant's answer; the names of their fields are for the error.

    Raises:
        RowError: one of the two is empty.
    """
    if not answer.strip():
        raise missing_answer(f"the field {answer_field} is missing or empty")
    if not question.strip():
        raise RowError(
            reasons.INVALID_ROW,
            f"the field {question_field} is missing or empty",
            f"Add {question_field}, or remove the row",
        )
    return Message("user", question), Message("assistant", answer)


def missing_answer(message: str) -> RowError:
    return RowError(reasons.MISSING_ANSWER, message, "Add the answer, or remove the row")
