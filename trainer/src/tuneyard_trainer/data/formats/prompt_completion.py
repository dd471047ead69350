"""prompt-completion: {"prompt": "...", "completion": "..."}, or other names for these two fields."""

from collections.abc import Mapping
from typing import Any, Final

from tuneyard_trainer.data.examples import Chat, Message
from tuneyard_trainer.data.formats.fields import question_and_answer, text_of

PROMPTS: Final = ("prompt", "question", "instruction", "input")
COMPLETIONS: Final = ("completion", "answer", "response", "output")
SYSTEM: Final = "system"
SHAPE: Final = '{"prompt", "completion"} or {"question", "answer"}'


def matches(fields: Mapping[str, Any]) -> bool:
    return any(name in fields for name in PROMPTS)


def read(fields: Mapping[str, Any]) -> Chat:
    prompt = next((name for name in PROMPTS if name in fields), PROMPTS[0])
    completion = next((name for name in COMPLETIONS if name in fields), _partner(prompt))
    messages = question_and_answer(text_of(fields, prompt), text_of(fields, completion), prompt, completion)
    system = text_of(fields, SYSTEM)
    return Chat((Message("system", system), *messages) if system.strip() else messages)


def _partner(prompt: str) -> str:
    """The field that usually goes with `prompt`, for the message about a missing answer."""
    return COMPLETIONS[PROMPTS.index(prompt)]
