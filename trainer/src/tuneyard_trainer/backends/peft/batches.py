"""Batches of the peft backend: the rows of a micro batch, with or without padding, and their loss.

Without padding the rows stand end to end in one sequence. Their positions begin at zero in each row, and a token
attends only to its own row, so that the result is that of the rows one by one.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any, Final

import torch
from torch.nn import functional
from torch.nn.attention.varlen import varlen_attn
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface

from tuneyard_trainer.backends.peft.cross_entropy import cross_entropy
from tuneyard_trainer.backends.peft.short_rows import causal_attention, is_short
from tuneyard_trainer.data.columns import IGNORED, INPUT_IDS, LABELS, TokenizedRow

Batch = dict[str, Any]
"""Tensors by the names of a model's arguments, and the greatest length of a row as a number."""

ROW_ATTENTION: Final = "tuneyard_rows"
"""The name under which transformers knows `row_attention`."""

CHUNK: Final = 256
"""Tokens whose logits are in memory at once: of a vocabulary of 150,000 that is 150 MB in float32."""

FLASH_HEAD: Final = 256
"""The largest head dimension of FlashAttention 2 (arXiv:2307.08691)."""

AMPERE: Final = (8, 0)

TARGETS: Final = "shift_labels"
"""For each position the token that is predicted there, or IGNORED. Trainer counts the tokens of a step by this name."""


def end_to_end(rows: Sequence[TokenizedRow]) -> Batch:
    """One sequence of all rows: tensors of shape (1, tokens)."""
    lengths = [len(row[INPUT_IDS]) for row in rows]
    bounds = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
    return _with_targets(
        {
            "input_ids": torch.tensor([[token for row in rows for token in row[INPUT_IDS]]]),
            "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
            "cu_seq_lens_q": bounds,
            "cu_seq_lens_k": bounds,
        },
        torch.tensor([[target for row in rows for target in _targets(row)]]),
        max_length_q=max(lengths),
        max_length_k=max(lengths),
    )


def padded(rows: Sequence[TokenizedRow]) -> Batch:
    """The rows, filled up to the longest: tensors of shape (rows, tokens). Padding is not attended to nor trained."""
    width = max(len(row[INPUT_IDS]) for row in rows)

    def fill(values: list[list[int]], filler: int) -> torch.Tensor:
        return torch.tensor([[*value, *[filler] * (width - len(value))] for value in values], dtype=torch.long)

    return _with_targets(
        {
            "input_ids": fill([row[INPUT_IDS] for row in rows], 0),
            "attention_mask": fill([[1] * len(row[INPUT_IDS]) for row in rows], 0),
        },
        fill([_targets(row) for row in rows], IGNORED),
    )


def _targets(row: TokenizedRow) -> list[int]:
    """Each position predicts the next token; the last position of a row predicts nothing."""
    return [*row[LABELS][1:], IGNORED]


def _with_targets(inputs: Batch, targets: torch.Tensor, **lengths: int) -> Batch:
    # Trainer counts the tokens only of a batch that has `labels`.
    return {**inputs, **lengths, TARGETS: targets, "labels": targets}


def summed_loss(model: torch.nn.Module, batch: Batch, with_some_logits: bool) -> torch.Tensor:
    """The negative log-likelihood of all targets, in nats.

    Args:
        with_some_logits: the model takes `logits_to_keep`; it then computes its head only where a token is trained,
            which is most of the memory where the vocabulary is large.
    """
    targets = batch[TARGETS]
    return cross_entropy(_trained_logits(model, batch, with_some_logits), targets[targets != IGNORED]).sum()


def chunked_loss(
    model: torch.nn.Module, batch: Batch, with_some_logits: bool, head: torch.nn.Module, chunk: int = CHUNK
) -> torch.Tensor:
    """The same as `summed_loss`, with the logits of `chunk` tokens at a time, computed again for the gradient.

    Args:
        head: of the model, whose output the model returns as it is.
    """
    return _in_chunks(model, batch, with_some_logits, head, chunk).sum()


def row_losses(
    model: torch.nn.Module, batch: Batch, with_some_logits: bool, head: torch.nn.Module | None
) -> torch.Tensor:
    """The negative log-likelihood of the targets of each row, in nats, of shape (rows,); with `head` in chunks."""
    targets, bounds = batch[TARGETS], batch.get("cu_seq_lens_q")
    trained = targets != IGNORED
    if head is None:
        losses = cross_entropy(_trained_logits(model, batch, with_some_logits), targets[trained])
    else:
        losses = _in_chunks(model, batch, with_some_logits, head, CHUNK)
    if bounds is None:
        rows, count = trained.nonzero()[:, 0], len(targets)
    else:
        positions = trained[0].nonzero()[:, 0].to(bounds.dtype)
        rows, count = torch.searchsorted(bounds[1:], positions, right=True), len(bounds) - 1
    return losses.new_zeros(count).index_add(0, rows, losses)


def head_error(model: torch.nn.Module, batch: Batch, with_some_logits: bool, head: torch.nn.Module) -> float:
    """The relative error of the head's output, taken for the model's logits: some models cap it."""
    with torch.no_grad():
        expected = _trained_logits(model, batch, with_some_logits)
        with _without(head) as compute:
            found = compute(_trained_logits(model, batch, with_some_logits))
    return float((found - expected).norm() / expected.norm())


def _in_chunks(
    model: torch.nn.Module, batch: Batch, with_some_logits: bool, head: torch.nn.Module, chunk: int
) -> torch.Tensor:
    """The loss of each target."""
    targets = batch[TARGETS]
    with _without(head) as compute:
        hidden = _trained_logits(model, batch, with_some_logits)

    def loss(part: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
        return cross_entropy(compute(part), goal)

    chunks = zip(hidden.split(chunk), targets[targets != IGNORED].split(chunk), strict=True)
    return torch.cat([checkpoint(loss, *each, use_reentrant=False) for each in chunks])


@contextmanager
def _without(head: torch.nn.Module) -> Iterator[Callable[[torch.Tensor], torch.Tensor]]:
    """Within the block the head returns what it is given; yields what it would compute."""
    forward = head.forward
    head.forward = lambda hidden: hidden
    try:
        yield forward
    finally:
        head.forward = forward


def _trained_logits(model: torch.nn.Module, batch: Batch, with_some_logits: bool) -> torch.Tensor:
    """The logits of the positions that have a target, of shape (targets, vocabulary)."""
    trained = batch[TARGETS] != IGNORED
    options = {"logits_to_keep": trained} if with_some_logits else {}
    logits = model(**_inputs(batch), **options, use_cache=False).logits
    return logits.reshape(-1, logits.shape[-1]) if with_some_logits else logits[trained]


def row_logits(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """The logits of all positions but padding, of shape (tokens, vocabulary)."""
    logits = model(**_inputs(batch), use_cache=False).logits
    mask = batch.get("attention_mask")
    return logits.flatten(0, 1) if mask is None else logits[mask.bool()]


def on_device(batch: Batch, device: torch.device) -> dict[str, Any]:
    return {key: value.to(device) if isinstance(value, torch.Tensor) else value for key, value in batch.items()}


def _inputs(batch: Batch) -> dict[str, Any]:
    return {name: value for name, value in batch.items() if name not in (TARGETS, "labels")}


def row_attention(  # noqa: PLR0913 - the signature is transformers'
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int = 0,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention of each row to itself, for batches of `end_to_end`.

    Args:
        query: shape (1, heads, tokens, head dimension); key and value may have fewer heads.
        cu_seq_lens_q: where each row begins, and where the last one ends.
        max_length_q: the greatest length of a row.

    Raises:
        NotImplementedError: the model's attention is of another kind.
    """
    if cu_seq_lens_q is None or attention_mask is not None or softcap is not None or s_aux is not None:
        raise NotImplementedError("this attention cannot be computed row by row")
    if not dropout and _has_flash(query, value):
        output = varlen_attn(
            *(tensor[0].transpose(0, 1) for tensor in (query, key, value)),
            cu_seq_lens_q,
            cu_seq_lens_q,
            max_length_q,
            max_length_q,
            scale=scaling,
            window_size=(-1 if sliding_window is None else sliding_window - 1, 0),
            enable_gqa=query.shape[1] != key.shape[1],
        )
        return output[None], None
    lengths = cu_seq_lens_q.diff().tolist()
    rows = zip(query.split(lengths, dim=2), key.split(lengths, dim=2), value.split(lengths, dim=2), strict=True)
    outputs = [_of_one_row(*row, sliding_window, dropout, scaling) for row in rows]
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


def _of_one_row(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    sliding_window: int | None,
    dropout: float,
    scaling: float | None,
) -> torch.Tensor:
    band = _band(query.shape[2], sliding_window, query.device)
    if band is None and not dropout and is_short(query):
        return causal_attention(query, key, value, scaling)
    return functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=band,
        is_causal=band is None,
        dropout_p=dropout,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def _has_flash(query: torch.Tensor, value: torch.Tensor) -> bool:
    """Whether PyTorch's own FlashAttention 2 takes the tensors: in 16 bits, on an Ampere GPU or a newer one."""
    return (
        query.is_cuda
        and query.dtype in (torch.bfloat16, torch.float16)
        and query.shape[-1] == value.shape[-1]
        and query.shape[-1] <= FLASH_HEAD
        and query.shape[-1] % 8 == 0
        and torch.cuda.get_device_capability(query.device) >= AMPERE
    )


def _band(length: int, sliding_window: int | None, device: torch.device) -> torch.Tensor | None:
    """The mask of a sliding window; None where the row is no longer than the window."""
    if sliding_window is None or length <= sliding_window:
        return None
    position = torch.arange(length, device=device)
    distance = position[:, None] - position[None, :]
    return (distance >= 0) & (distance < sliding_window)


AttentionInterface.register(ROW_ATTENTION, row_attention)
