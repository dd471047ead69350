"""preference: {"prompt", "chosen", "rejected"}, two answers to one prompt, of which the first is preferred.

Each of the three may be text or a list of messages. chosen and rejected may also be whole conversations, as in
UltraFeedback: what they have in common is the prompt then.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from tuneyard_trainer.data.examples import Message, Messages, Preference
from tuneyard_trainer.data.formats.fields import Fields, missing_answer
from tuneyard_trainer.data.formats.turns import read_turns
from tuneyard_trainer.data.formats.vocabulary import PROMPTS, SYSTEMS

CHOSEN: Final = "chosen"
REJECTED: Final = "rejected"
SHAPE: Final = '{"prompt", "chosen", "rejected"}'


def matches(fields: Mapping[str, Any]) -> bool:
    return CHOSEN in fields and REJECTED in fields


def read(fields: Fields) -> Preference:
    asked = _prompt(fields)
    both = _answer(fields, CHOSEN), _answer(fields, REJECTED)
    if both[0] == both[1]:
        fields.refuse("chosen and rejected are the same", "Write two different answers, or remove the row")
    common = _common(*both)
    if common and asked and asked[-1].content.strip() != common[-1].content.strip():
        fields.refuse("the prompt is not the one in chosen and rejected", "Keep one of the two")
    prompt = common or asked
    if not prompt:
        fields.refuse("there is no prompt", "Add prompt, or write chosen and rejected as whole conversations")
    answers = tuple(answer[len(common) :] for answer in both)
    for name, answer in zip((CHOSEN, REJECTED), answers, strict=True):
        if not answer or answer[-1].role != "assistant":
            missing_answer(fields, f"{name} does not end with a message of the assistant")
    return Preference(_with_system(fields, prompt), *answers)


def _prompt(fields: Fields) -> Messages:
    """The prompt as messages that are context; empty where there is none."""
    name = next((name for name in PROMPTS if name in fields), None)
    if name is None:
        return ()
    if isinstance(fields.get(name), list):
        return _context(tuple(read_turns(fields, name)))
    text = fields.text(name)
    return (Message("user", text),) if text.strip() else ()


def _answer(fields: Fields, name: str) -> Messages:
    if isinstance(fields.get(name), list):
        return tuple(read_turns(fields, name))
    text = fields.answer(name)
    if not text.strip():
        missing_answer(fields, f"the field {name} is missing or empty")
    return (Message("assistant", text),)


def _common(chosen: Messages, rejected: Messages) -> Messages:
    """The messages with which both begin, up to the last one that is not the assistant's."""
    same = [one == other for one, other in zip(chosen, rejected, strict=False)]
    length = same.index(False) if False in same else len(same)
    while length and chosen[length - 1].role == "assistant":
        length -= 1
    return _context(chosen[:length])


def _context(messages: Messages) -> Messages:
    """Answers in a prompt are not trained."""
    return tuple(replace(message, trained=message.role != "assistant") for message in messages)


def _with_system(fields: Fields, prompt: Messages) -> Messages:
    name = fields.first(SYSTEMS)
    text = fields.text(name) if name else ""
    if not text.strip() or prompt[0].role == "system":
        return prompt
    return (Message("system", text), *prompt)
