"""prompt-completion: {"prompt": "...", "completion": "..."}, and the other names that these two go by."""

from collections.abc import Mapping
from typing import Any, Final

from tuneyard_trainer.data.examples import Messages, question_and_answer, text_of

PROMPTS: Final = ("prompt", "question", "instruction", "input")
COMPLETIONS: Final = ("completion", "answer", "response", "output")
SYSTEM: Final = "system"
SHAPE: Final = '{"prompt", "completion"} or {"question", "answer"}'


def matches(row: Mapping[str, Any]) -> bool:
    return any(field in row for field in PROMPTS)


def read(row: Mapping[str, Any]) -> Messages:
    prompt = next((field for field in PROMPTS if field in row), PROMPTS[0])
    completion = next((field for field in COMPLETIONS if field in row), _partner(prompt))
    messages = question_and_answer(text_of(row, prompt), text_of(row, completion), completion, prompt)
    system = text_of(row, SYSTEM)
    return [{"role": "system", "content": system}, *messages] if system.strip() else messages


def _partner(prompt: str) -> str:
    """The field that a person would expect beside `prompt`."""
    return COMPLETIONS[PROMPTS.index(prompt)]
