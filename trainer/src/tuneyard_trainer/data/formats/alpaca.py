"""alpaca: {"instruction": "...", "input": "...", "output": "..."}; the input is optional context."""

from collections.abc import Mapping
from typing import Any, Final

from tuneyard_trainer.data.examples import Messages, question_and_answer, text_of

SHAPE: Final = '{"instruction", "input", "output"}'


def matches(row: Mapping[str, Any]) -> bool:
    return "instruction" in row and ("input" in row or "output" in row)


def read(row: Mapping[str, Any]) -> Messages:
    instruction, context = text_of(row, "instruction"), text_of(row, "input")
    # The model's own chat template takes the place of Alpaca's "### Instruction:" headings.
    question = f"{instruction}\n\n{context}" if instruction.strip() and context.strip() else instruction
    return question_and_answer(question, text_of(row, "output"), "output", "instruction")
