"""Validation rules with two judges: the API server evaluates their CEL, pydantic calls their predicate.

Both say the same of every value, with the same message: tests/contract/test_crds.py runs one table over both.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

RULE = "rule"  # the type of pydantic's errors that come from a rule: their message needs no more words


class Rule(NamedTuple):
    """What a value must be like.

    `message` names what is wrong and what to write instead. Without `cel` the rule is pydantic's alone: what CEL cannot
    say, or what the API server has stored earlier and has to go on storing.
    """

    message: str
    accepts: Callable[[Any], bool]
    cel: str = ""
    field: str = ""
    """Of a model's rule: the field, as the spec writes it, that the message is about; empty: the whole."""

    def wire(self) -> dict[str, str]:
        # The schema of a kind says nothing about its metadata, so that the API server knows no path into it.
        path = {"fieldPath": f".{self.field}"} if self.field and not self.field.startswith("metadata.") else {}
        return {"rule": self.cel, "message": self.message} | path


def matches(pattern: str, message: str, *, cel: bool = False) -> Rule:
    """The whole string matches an expression that Python and RE2 read alike; `cel`: the API server checks it, too."""
    compiled = re.compile(pattern)
    rule = f"self.matches(r'^({pattern})$')" if cel else ""
    return Rule(message, lambda text: compiled.fullmatch(text) is not None, rule)


def validations(rules: Iterable[Rule]) -> dict[str, Any]:
    """What a schema says of the rules; empty where none has CEL."""
    with_cel = [rule.wire() for rule in rules if rule.cel]
    return {"x-kubernetes-validations": with_cel} if with_cel else {}


def violated(message: str) -> PydanticCustomError:
    """The error of a value that breaks a rule."""
    return PydanticCustomError(RULE, "{message}", {"message": message})


def check(title: str, value: Any, rules: Iterable[Rule]) -> None:
    """Raises ValidationError with an error for each rule that the value breaks."""
    errors = [
        InitErrorDetails(type=violated(rule.message), loc=tuple(filter(None, rule.field.split("."))), input=value)
        for rule in rules
        if not rule.accepts(value)
    ]
    if errors:
        raise ValidationError.from_exception_data(title, errors)


class Obeys:
    """Annotates a field whose value must obey a rule: `Annotated[str, Obeys(Rule(...))]`."""

    def __init__(self, *rules: Rule) -> None:
        self._rules = rules

    def _check(self, value: Any) -> Any:
        check("value", value, self._rules)
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return handler(schema) | validations(self._rules)
