"""alpaca: {"instruction": "...", "input": "...", "output": "..."}; the input is optional context.

Also Dolly's rows: {"instruction", "context", "response"}; and `system`, `history` as LLaMA-Factory has them.
"""

from collections.abc import Mapping
from typing import Any, Final

from tuneyard_trainer.data.examples import Chat
from tuneyard_trainer.data.formats.conversation import read_exchange
from tuneyard_trainer.data.formats.fields import Fields

OUTPUTS: Final = ("output", "response", "answer", "completion")
SHAPE: Final = '{"instruction", "input", "output"}'


def matches(fields: Mapping[str, Any]) -> bool:
    return "instruction" in fields and any(name in fields for name in ("input", "output", "context"))


def read(fields: Fields) -> Chat:
    return read_exchange(fields, "instruction", fields.first(("input", "context")), fields.first(OUTPUTS) or "output")
