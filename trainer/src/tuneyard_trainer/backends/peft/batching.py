"""Which batches a model gets: rows end to end where it computes the same for them, else padded rows."""

import inspect
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Self

import torch
from bitsandbytes.nn import Linear4bit

from tuneyard_trainer.backends.peft.batches import (
    ROW_ATTENTION,
    Batch,
    chunked_loss,
    end_to_end,
    head_error,
    on_device,
    padded,
    row_logits,
    summed_loss,
)
from tuneyard_trainer.backends.peft.model import Trainable, base_of
from tuneyard_trainer.data.columns import TokenizedRow, length

PROBE_ROWS: Final = 3
SAME: Final = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
"""The relative error of logits up to which they are the same, by the precision in which a model computes; attention
across rows gives several times as much."""


class Batching(NamedTuple):
    """How the micro batches of a run are made."""

    collate: Callable[[Sequence[TokenizedRow]], Batch]
    with_some_logits: bool
    """Whether the model takes `logits_to_keep`."""
    head: torch.nn.Module | None = None
    """Of a model whose loss is computed in chunks."""

    @property
    def is_packed(self) -> bool:
        return self.collate is end_to_end

    def loss(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """The negative log-likelihood of all targets, in nats."""
        if self.head is None:
            return summed_loss(model, batch, self.with_some_logits)
        return chunked_loss(model, batch, self.with_some_logits, self.head)

    def in_chunks(self, model: Trainable, rows: Sequence[TokenizedRow]) -> Self:
        """With the loss in chunks, where it is the same: not of a model that changes what its head returns."""
        head = base_of(model).get_output_embeddings()
        batch = on_device(self.collate(rows), next(model.parameters()).device)
        was_training = model.training
        model.eval()
        error = head_error(model, batch, self.with_some_logits, head)
        model.train(was_training)
        if error <= SAME[torch.float32]:
            return self._replace(head=head)
        print(f"The loss is not computed in chunks, because {type(base_of(model)).__name__} changes its head's output.")
        return self

    @classmethod
    def of(cls, model: Trainable, rows: Sequence[TokenizedRow], packing: bool) -> Self:
        """Sets the attention of the model, too."""
        base = base_of(model)
        with_some_logits = "logits_to_keep" in inspect.signature(base.forward).parameters
        if packing:
            if not (problem := _pack(model, sorted(rows, key=length)[:PROBE_ROWS])):
                return cls(end_to_end, with_some_logits)
            print(f"Rows are padded, because {type(base).__name__} cannot train them without: {problem}.")
        return cls(padded, with_some_logits)


def _pack(model: Trainable, probe: Sequence[TokenizedRow]) -> str:
    """Chooses an attention for rows end to end; returns why there is none, after which the model is as before."""
    base = base_of(model)
    before = base.config._attn_implementation
    expected = torch.cat([_logits(model, padded([row])) for row in probe])
    try:
        if before != "flash_attention_2":  # which reads the bounds of the rows itself
            base.set_attn_implementation(ROW_ATTENTION)
        error = ((_logits(model, end_to_end(probe)) - expected).norm() / expected.norm()).item()
    except (NotImplementedError, TypeError, ValueError, RuntimeError) as problem:
        base.set_attn_implementation(before)
        return str(problem).splitlines()[0]
    if error <= SAME[_precision(model)]:
        return ""
    base.set_attn_implementation(before)
    return f"their logits have a relative error of {error:.2g}"


def _precision(model: Trainable) -> torch.dtype:
    """The least that is used anywhere: QLoRA multiplies in bfloat16, and has logits in float32."""
    types = {parameter.dtype for parameter in model.parameters()}
    types |= {module.compute_dtype for module in model.modules() if isinstance(module, Linear4bit)}
    return torch.bfloat16 if torch.bfloat16 in types else torch.float32


def _logits(model: Trainable, batch: Batch) -> torch.Tensor:
    """The logits of all tokens of the rows, of shape (tokens, vocabulary)."""
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    with torch.no_grad():
        logits = row_logits(model, on_device(batch, device))
    model.train(was_training)
    return logits
