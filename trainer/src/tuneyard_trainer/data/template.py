"""Chat templates, rendered as transformers does it: Jinja in a sandbox, with the same extensions, filters and globals.

transformers itself is not used, because importing it takes seconds and imports torch.
"""

import json
from collections.abc import Sequence
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tuneyard_api import reasons
from tuneyard_trainer.data.examples import Message
from tuneyard_trainer.runtime.errors import BadInput

SPECIAL_TOKENS: Final = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
TEMPLATE_FILE: Final = "chat_template.jinja"
CONFIG_FILE: Final = "tokenizer_config.json"
# For templates that print the date: always this one (Llama 3's default), so that the same input gives the same tokens.
TODAY: Final = date(2024, 7, 26)


class ChatTemplate:
    """A compiled template.

    Raises:
        jinja2.TemplateError: it is not Jinja, or it rejects the messages.
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
            messages=[message.to_json() for message in messages],
            tools=None,
            documents=None,
            add_generation_prompt=add_generation_prompt,
            **self._special_tokens,
        )
        return rendered


class _Generation(Extension):
    """{% generation %}, with which transformers finds the assistant's text, is parsed and has no effect here."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


def _raise(message: str) -> str:
    raise TemplateError(message)


def find_template(directory: Path, given: str | None) -> str | None:
    """The source of the chat template: the spec's, else the model's template file, else its tokenizer's."""
    if given:
        return given
    if (directory / TEMPLATE_FILE).is_file():
        return (directory / TEMPLATE_FILE).read_text()
    configured = _config(directory).get("chat_template")
    if isinstance(configured, list):  # several templates, each with a name
        configured = next((item["template"] for item in configured if item.get("name") == "default"), None)
    return configured if isinstance(configured, str) and configured.strip() else None


def load_template(directory: Path, given: str | None, uri: str) -> ChatTemplate:
    """The chat template, after it has rendered a short chat.

    Raises:
        BadInput: there is none, or it cannot be rendered.
    """
    source = find_template(directory, given)
    if source is None:
        raise BadInput(
            reasons.CHAT_TEMPLATE_MISSING,
            f"The model at {uri} has no chat template: neither {TEMPLATE_FILE} nor chat_template in {CONFIG_FILE}",
            "Set model.chatTemplate, or tune a chat model (its name often ends in Instruct).",
        )
    template = ChatTemplate(source, special_tokens(directory))
    try:
        template.render([Message("user", "a"), Message("assistant", "b")])
    except TemplateError as error:
        where = "model.chatTemplate" if given else f"the chat template of {uri}"
        raise BadInput(
            reasons.INVALID_SPEC,
            f"{where} cannot be rendered: {error}",
            "Correct the Jinja template in model.chatTemplate.",
        ) from error
    return template


def special_tokens(directory: Path) -> dict[str, str]:
    """The special tokens that templates refer to by name."""
    config = _config(directory)
    found = {name: config.get(name) for name in SPECIAL_TOKENS}
    texts = {name: value.get("content") if isinstance(value, dict) else value for name, value in found.items()}
    return {name: value for name, value in texts.items() if isinstance(value, str)}


def _config(directory: Path) -> dict[str, Any]:
    path = directory / CONFIG_FILE
    config: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return config
