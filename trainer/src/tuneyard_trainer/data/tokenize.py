"""Messages to tokens, with labels on what the assistant says, its end-of-turn token included, and on nothing else."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from jinja2 import TemplateError

from tuneyard_api import reasons
from tuneyard_trainer.data.examples import Messages, RowError
from tuneyard_trainer.data.shards import IGNORED, TokenizedRow
from tuneyard_trainer.data.template import ChatTemplate
from tuneyard_trainer.runtime.errors import BadInput

if TYPE_CHECKING:
    pass

SPECIAL_TOKENS: Final = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
TEMPLATE_FILE: Final = "chat_template.jinja"
CONFIG_FILE: Final = "tokenizer_config.json"
TOKENIZER_FILE: Final = "tokenizer.json"

Span = tuple[int, int]


class Rendered(NamedTuple):
    text: str
    spans: list[Span]
    """Characters that the assistant says, from and to (exclusive)."""


def find_template(directory: Path, given: str | None) -> str | None:
    """The chat template: the spec's, else the model's own file, else the one in its tokenizer's configuration."""
    if given:
        return given
    if (directory / TEMPLATE_FILE).is_file():
        return (directory / TEMPLATE_FILE).read_text()
    configured = _config(directory).get("chat_template")
    if isinstance(configured, list):  # several, by name
        configured = next((each["template"] for each in configured if each.get("name") == "default"), None)
    return configured if isinstance(configured, str) and configured.strip() else None


def load_template(directory: Path, given: str | None, uri: str) -> ChatTemplate:
    """The chat template, tried on a short chat.

    Raises:
        BadInput: there is none, or it is not one.
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
        template.render([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
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


def render(template: ChatTemplate, messages: Messages) -> Rendered:
    """The whole chat as text, and where the assistant speaks.

    A turn begins where the generation prompt ends, as that is what the model sees when it is asked, and ends with its
    last visible character, which is the end-of-turn token's. An earlier turn that the template shows differently once
    others follow it (reasoning that is cut) is not trained.

    Raises:
        RowError: the template refuses the messages, or shows the last turn differently than it is asked for.
    """
    try:
        text = template.render(messages)
        spans: list[Span] = []
        for index, message in enumerate(messages):
            if message["role"] == "assistant":
                asked = template.render(messages[:index], add_generation_prompt=True)
                answered = template.render(messages[: index + 1])
                end = _end_of_turn(answered, message["content"])
                if text.startswith(asked) and text.startswith(answered[:end]):
                    spans.append((len(asked), end))
    except TemplateError as error:
        raise RowError(
            reasons.INVALID_ROW,
            f"the chat template refuses the messages: {error}",
            "Change the roles or their order, or set model.chatTemplate",
        ) from error
    if not spans:
        raise RowError(
            reasons.INVALID_ROW,
            "the chat template shows the answer differently than it asks for it, so it cannot be trained",
            "Set model.chatTemplate to one whose generation prompt is the beginning of the assistant's turn",
        )
    return Rendered(text, spans)


def _end_of_turn(answered: str, content: str) -> int:
    """Where the turn ends: at the last visible character, or after the white space in a template that ends turns so."""
    visible = answered.rstrip()
    return len(answered) if visible.endswith(content.rstrip()) else len(visible)


class RowTokenizer:
    """Tokenizes chats with a model's own tokenizer and template."""

    def __init__(self, directory: Path, template: ChatTemplate, uri: str) -> None:
        # Here, so that importing this module stays cheap.
        from tokenizers import Tokenizer  # noqa: PLC0415

        path = directory / TOKENIZER_FILE
        if not path.is_file():
            raise BadInput(
                reasons.MODEL_NOT_FOUND,
                f"The model at {uri} has no {TOKENIZER_FILE}",
                "Save its tokenizer with transformers (AutoTokenizer.from_pretrained(...).save_pretrained(...)) there.",
            )
        self._template = template
        self._tokenizer: Tokenizer = Tokenizer.from_file(str(path))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def tokenize(self, messages: Messages) -> TokenizedRow:
        """Raises RowError: see render."""
        rendered = render(self._template, messages)
        encoding = self._tokenizer.encode(rendered.text, add_special_tokens=False)
        return TokenizedRow(encoding.ids, labels(encoding.ids, encoding.offsets, rendered.spans))


def labels(ids: Sequence[int], offsets: Sequence[Span], spans: Sequence[Span]) -> list[int]:
    """The tokens that lie in a span; one that begins before it belongs to what was asked."""
    return [
        token if any(start <= first < last <= end for start, end in spans) else IGNORED
        for token, (first, last) in zip(ids, offsets, strict=True)
    ]


def truncated(row: TokenizedRow, max_length: int) -> TokenizedRow:
    return TokenizedRow(row.input_ids[:max_length], row.labels[:max_length])


def supervised(row: TokenizedRow) -> int:
    """How many tokens are trained; the first is never predicted."""
    return sum(label != IGNORED for label in row.labels[1:])
