"""prompt-completion: {"prompt": "...", "completion": "..."}, or other names for these two fields.

Both may be lists of messages, as TRL has them: those of the prompt are context, those of the completion are trained.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from tuneyard_trainer.data.examples import Chat
from tuneyard_trainer.data.formats.conversation import finished, read_exchange
from tuneyard_trainer.data.formats.fields import Fields
from tuneyard_trainer.data.formats.turns import read_turns
from tuneyard_trainer.data.formats.vocabulary import COMPLETIONS, PROMPTS

SHAPE: Final = '{"prompt", "completion"} or {"question", "answer"}'
PARTNERS: Final = dict(zip(PROMPTS, (*COMPLETIONS, "response"), strict=True))
"""The answer that usually goes with a question, for the message about a missing one."""


def matches(fields: Mapping[str, Any]) -> bool:
    return any(name in fields for name in PROMPTS)


def read(fields: Fields) -> Chat:
    prompt = next((name for name in PROMPTS if name in fields), PROMPTS[0])
    completion = next((name for name in COMPLETIONS if name in fields), PARTNERS[prompt])
    if isinstance(fields.get(prompt), list) and isinstance(fields.get(completion), list):
        asked = [replace(message, trained=False) for message in read_turns(fields, prompt)]
        return finished(fields, asked + read_turns(fields, completion))
    return read_exchange(fields, prompt, fields.first(("context",)), completion)
