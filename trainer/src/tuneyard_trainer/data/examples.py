"""A row as messages, and what can be wrong with one."""

from collections.abc import Mapping
from typing import Any, Final

from tuneyard_api import reasons

Message = dict[str, str]
Messages = list[Message]

ROLES: Final = ("system", "user", "assistant")


class RowError(Exception):
    """What is wrong with one row; who reads the file adds where."""

    def __init__(self, reason: str, message: str, advice: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.advice = advice


def text_of(row: Mapping[str, Any], field: str) -> str:
    """A field that must hold text; the empty string when it is absent or null.

    Raises:
        RowError: it holds something else, or half a character (a lone surrogate).
    """
    value = row.get(field)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise RowError(
            reasons.INVALID_ROW,
            f"the field {field} is {type(value).__name__}, not text",
            f"Make {field} a string",
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise RowError(
            reasons.INVALID_ROW,
            f"the field {field} holds half a character at position {error.start}",
            "Write the file as UTF-8 again",
        ) from error
    return value


def question_and_answer(question: str, answer: str, answer_field: str, question_field: str) -> Messages:
    """One turn.

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
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def missing_answer(what: str) -> RowError:
    return RowError(reasons.MISSING_ANSWER, what, "Add the answer, or remove the row")
