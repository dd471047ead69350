"""alpaca: {"instruction": "...", "input": "...", "output": "..."}; the input is optional context."""

from collections.abc import Mapping
from typing import Any, Final

from tuneyard_trainer.data.examples import Chat
from tuneyard_trainer.data.formats.fields import question_and_answer, text_of

SHAPE: Final = '{"instruction", "input", "output"}'


def matches(fields: Mapping[str, Any]) -> bool:
    return "instruction" in fields and ("input" in fields or "output" in fields)


def read(fields: Mapping[str, Any]) -> Chat:
    instruction, context = text_of(fields, "instruction"), text_of(fields, "input")
    # The chat template of the model replaces Alpaca's headings ("### Instruction:").
    question = f"{instruction}\n\n{context}" if instruction.strip() and context.strip() else instruction
    return Chat(question_and_answer(question, text_of(fields, "output"), "instruction", "output"))
