"""The attention of rows end to end by PyTorch's FlashAttention is that of the rows one by one."""

import pytest
import torch

from tuneyard_trainer.backends.peft import batches

pytestmark = pytest.mark.gpu

LENGTHS = (5, 1, 300, 64)


def attended(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, window: int | None) -> list[torch.Tensor]:
    """The output, and the gradient of each input."""
    inputs = [tensor.clone().requires_grad_() for tensor in (query, key, value)]
    bounds = torch.tensor([0, *torch.tensor(LENGTHS).cumsum(0)], dtype=torch.int32, device="cuda")
    output, _ = batches.row_attention(
        torch.nn.Identity(),
        inputs[0],
        inputs[1],
        inputs[2],
        None,
        cu_seq_lens_q=bounds,
        max_length_q=max(LENGTHS),
        scaling=0.1,
        sliding_window=window,
    )
    output.float().square().sum().backward()
    return [output.detach(), *(tensor.grad for tensor in inputs if tensor.grad is not None)]


@pytest.mark.parametrize("window", [None, 16])
@pytest.mark.parametrize("heads", [4, 2])
def test_it_is_that_of_the_rows_one_by_one(monkeypatch: pytest.MonkeyPatch, heads: int, window: int | None) -> None:
    torch.manual_seed(0)
    query, key, value = (
        torch.randn(1, count, sum(LENGTHS), 64, device="cuda", dtype=torch.bfloat16) for count in (4, heads, heads)
    )
    assert batches._has_flash(query, value)
    found = attended(query, key, value, window)
    monkeypatch.setattr(batches, "_has_flash", lambda *_: False)
    expected = attended(query.float(), key.float(), value.float(), window)
    assert len(found) == len(expected) == 4
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert float((one.float() - other).norm() / other.norm()) < 1e-2
