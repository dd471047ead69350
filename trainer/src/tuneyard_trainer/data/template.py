"""Chat templates, rendered as transformers does it: Jinja in a sandbox, with the same extensions, filters and globals.

transformers itself is not used, because importing it takes a second.
"""

import json
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from jinja2 import TemplateError, TemplateSyntaxError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tuneyard_api import reasons
from tuneyard_api.contracts.termination import shortened
from tuneyard_trainer.data.examples import Message
from tuneyard_trainer.runtime.bounds import Bounded, TooSlow
from tuneyard_trainer.runtime.errors import BadInput
from tuneyard_trainer.runtime.userfiles import read_object, read_text

TEMPLATE_FILE: Final = "chat_template.jinja"
CONFIG_FILE: Final = "tokenizer_config.json"
# The names under which a message's reasoning is written. Templates read the first, that of gpt-oss the second.
REASONING_FIELDS: Final = ("reasoning_content", "thinking", "reasoning")
# For templates that print the date: always this one (Llama 3's default), so that the same input gives the same tokens.
TODAY: Final = date(2024, 7, 26)
# What one rendering may take. A common template takes 0.1 milliseconds.
RENDER_SECONDS: Final = 5
RENDER_BYTES: Final = 512 * 2**20
# Of the text, beside what is said in the messages; each character may become a token of some hundred bytes.
RENDER_CHARACTERS: Final = 256 * 2**10
RENDER_TIMES: Final = 8  # a template may repeat what is said so often
ERROR_CHARACTERS: Final = 300


class ChatTemplate:
    """A compiled template. Whatever it raises, and time or memory beyond its bounds, is a jinja2.TemplateError."""

    def __init__(self, source: str, special_tokens: dict[str, str]) -> None:
        self.source = source
        self._special_tokens = special_tokens
        self._bounds: Bounded | None = None

    def __reduce__(self) -> tuple[type["ChatTemplate"], tuple[str, dict[str, str]]]:
        """Another process compiles it itself."""
        return ChatTemplate, (self.source, self._special_tokens)

    @cached_property
    def _template(self) -> Any:
        environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = TODAY.strftime
        template = environment.from_string(self.source)
        template.globals = dict(template.globals)  # Jinja's own chain of mappings is copied slowly for each chat
        return template

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] = (),
        *,
        add_generation_prompt: bool = False,
    ) -> str:
        """The chat as text.

        Raises:
            jinja2.TemplateError: the template is not Jinja, rejects the messages, raises another error, or needs too
                much time or memory.
        """
        chat = [_fields(message) for message in messages]
        try:
            with self.bounded():
                text: str = self._template.render(
                    messages=chat,
                    tools=list(tools) or None,
                    documents=None,
                    add_generation_prompt=add_generation_prompt,
                    **self._special_tokens,
                )
                text.encode()
        except Exception as error:  # it runs a user's code, which may raise anything
            raise TemplateError(_explained(error)) from error
        if len(text) > RENDER_CHARACTERS and len(text) > RENDER_CHARACTERS + RENDER_TIMES * _said(chat):
            raise TemplateError(f"it renders {len(text)} characters, far more than the messages have")
        return text

    @contextmanager
    def bounded(self) -> Iterator[None]:
        """Sets the bounds once for all chats that are rendered in this block, which is faster than for each of them.

        Each chat has all of the time; the memory is for all of them.
        """
        if self._bounds is not None:
            self._bounds.again()
            yield
            return
        with Bounded(RENDER_SECONDS, RENDER_BYTES) as bounds:
            self._bounds = bounds
            try:
                yield
            finally:
                self._bounds = None


def _fields(message: Message) -> dict[str, Any]:
    """The message as transformers hands it to a template: without nulls, and its reasoning under both names."""
    if not message.extra:
        return message.to_json()
    fields = {name: value for name, value in message.to_json().items() if value is not None}
    reasoning = next((fields[name] for name in REASONING_FIELDS if name in fields), None)
    return fields if reasoning is None else {"thinking": reasoning} | fields | {"reasoning_content": reasoning}


def _said(chat: list[dict[str, Any]]) -> int:
    """The characters of the messages."""
    return sum(len(str(value)) for message in chat for value in message.values())


def _explained(error: Exception) -> str:
    """What a template's error says, after the line where Jinja has found it."""
    line = error.lineno if isinstance(error, TemplateSyntaxError) else _line(error)
    text = shortened(str(error), ERROR_CHARACTERS)
    match error:
        case TooSlow():
            text = f"it does not end within {RENDER_SECONDS} seconds"
        case MemoryError():
            text = f"it needs more than {RENDER_BYTES // 2**20} MiB of memory"
        case TemplateError():
            if type(error) is TemplateError:  # the template's own words, of raise_exception
                return text
        case _:
            text = f"{type(error).__name__}: {text}"
    return f"line {line}: {text}" if line else text


def _line(error: Exception) -> int | None:
    """Where in the template the error was raised, as Jinja has written it into the traceback."""
    lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == "<template>"]
    return lines[-1] if lines else None


class _Sandbox(ImmutableSandboxedEnvironment):
    """Knows at once what the sandbox finds out slowly at each loop.first: a loop has nothing to hide or to change."""

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, LoopContext):
            return not attr.startswith("_")
        return super().is_safe_attribute(obj, attr, value)


class _Generation(Extension):
    """{% generation %}, with which transformers finds the assistant's text, is a scope of its own and nothing else."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_unchanged"), [], [], body).set_lineno(line)

    def _unchanged(self, caller: Callable[[], str]) -> str:
        return caller()


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> str:
    raise TemplateError(message)


def find_template(directory: Path, given: str | None, uri: str) -> str | None:
    """The source of the chat template: the spec's, else the model's template file, else its tokenizer's."""
    if given:
        return given
    if (directory / TEMPLATE_FILE).is_file():
        return read_text(directory / TEMPLATE_FILE, f"{uri}/{TEMPLATE_FILE}")
    configured = _config(directory, uri).get("chat_template")
    if isinstance(configured, list):  # several templates, each with a name
        named = [item for item in configured if isinstance(item, dict)]
        configured = next((item.get("template") for item in named if item.get("name") == "default"), None)
    return configured if isinstance(configured, str) and configured.strip() else None


def require_template(directory: Path, given: str | None, uri: str) -> str:
    """The source of the chat template.

    Raises:
        BadInput: there is none.
    """
    source = find_template(directory, given, uri)
    if source is None:
        raise BadInput(
            reasons.CHAT_TEMPLATE_MISSING,
            f"The model at {uri} has no chat template: neither {TEMPLATE_FILE} nor chat_template in {CONFIG_FILE}",
            "Set model.chatTemplate to the text of a Jinja template, such as that of the model's Instruct variant, "
            "or tune that variant.",
        )
    return source


def _config(directory: Path, uri: str) -> dict[str, Any]:
    path = directory / CONFIG_FILE
    return read_object(path, f"{uri}/{CONFIG_FILE}") if path.is_file() else {}
