"""Chat templates, rendered as transformers does it: Jinja in a sandbox, with the same extensions, filters and globals.

transformers itself is not used: importing it takes seconds, and torch with it.
"""

import json
from collections.abc import Sequence
from datetime import date
from functools import cached_property
from typing import Any, Final

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tuneyard_trainer.data.examples import Message

# For templates that print the date: always this one (Llama 3's default), so that the same input gives the same tokens.
TODAY: Final = date(2024, 7, 26)


class ChatTemplate:
    """A compiled template.

    Raises:
        jinja2.TemplateError: it is not Jinja, or it refuses the messages.
    """

    def __init__(self, source: str, special_tokens: dict[str, str]) -> None:
        self._source = source
        self._special_tokens = special_tokens

    @cached_property
    def _template(self) -> Any:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = TODAY.strftime
        return environment.from_string(self._source)

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> str:
        rendered: str = self._template.render(
            messages=list(messages),
            tools=None,
            documents=None,
            add_generation_prompt=add_generation_prompt,
            **self._special_tokens,
        )
        return rendered


class _Generation(Extension):
    """{% generation %} marks the assistant's text for transformers; here it only has to be understood."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


def _raise(message: str) -> str:
    raise TemplateError(message)
