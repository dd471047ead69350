"""Which batches a model gets: rows end to end where it computes the same for them, else padded rows."""

import inspect
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Self

import torch
from peft import PeftModel

from tuneyard_trainer.backends.peft.batches import ROW_ATTENTION, Batch, end_to_end, on_device, padded, row_logits
from tuneyard_trainer.data.columns import TokenizedRow, length

PROBE_ROWS: Final = 3
SAME: Final = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
"""The relative error of logits up to which they are the same; attention across rows gives several times as much."""


class Batching(NamedTuple):
    """How the micro batches of a run are made."""

    collate: Callable[[Sequence[TokenizedRow]], Batch]
    with_some_logits: bool
    """Whether the model takes `logits_to_keep`."""

    @property
    def is_packed(self) -> bool:
        return self.collate is end_to_end

    @classmethod
    def of(cls, model: PeftModel, rows: Sequence[TokenizedRow], packing: bool) -> Self:
        """Sets the attention of the model, too."""
        base = model.get_base_model()
        with_some_logits = "logits_to_keep" in inspect.signature(base.forward).parameters
        if packing:
            if not (problem := _pack(model, sorted(rows, key=length)[:PROBE_ROWS])):
                return cls(end_to_end, with_some_logits)
            print(f"Rows are padded, because {type(base).__name__} cannot train them without: {problem}.")
        return cls(padded, with_some_logits)


def _pack(model: PeftModel, probe: Sequence[TokenizedRow]) -> str:
    """Chooses an attention for rows end to end; returns why there is none, after which the model is as before."""
    base = model.get_base_model()
    before = base.config._attn_implementation
    expected = torch.cat([_logits(model, padded([row])) for row in probe])
    try:
        if before != "flash_attention_2":  # which reads the bounds of the rows itself
            base.set_attn_implementation(ROW_ATTENTION)
        error = ((_logits(model, end_to_end(probe)) - expected).norm() / expected.norm()).item()
    except (NotImplementedError, TypeError, ValueError, RuntimeError) as problem:
        base.set_attn_implementation(before)
        return str(problem).splitlines()[0]
    if error <= SAME[expected.dtype]:
        return ""
    base.set_attn_implementation(before)
    return f"their logits have a relative error of {error:.2g}"


def _logits(model: PeftModel, batch: Batch) -> torch.Tensor:
    """The logits of all tokens of the rows, of shape (tokens, vocabulary)."""
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    with torch.no_grad():
        logits = row_logits(model, on_device(batch, device))
    model.train(was_training)
    return logits
