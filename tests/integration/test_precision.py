"""Products of matrices in 16 bits where a CPU has no instructions for them."""

from typing import Any

import pytest
import torch
from torch.nn.functional import linear, scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM

from tuneyard_trainer.weights import precision

PRODUCTS = {torch.ops.aten.mm.default, torch.ops.aten.bmm.default, torch.ops.aten.addmm.default}


class ProductTypes(TorchDispatchMode):  # type: ignore[misc]
    """Collects the types of the products that PyTorch computes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in PRODUCTS:
            self.found.add(args[0].dtype)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def without_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("computes_in_bfloat16", "computes_in_float16"):
        monkeypatch.setattr(precision, name, lambda: False)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_product_is_rounded_once(dtype: torch.dtype, without_instructions: None) -> None:
    row, weight, bias = (torch.randn(*shape).to(dtype) for shape in ((3, 64), (32, 64), (32,)))
    heads = torch.randn(1, 2, 5, 8).to(dtype)
    with precision.fast_products():
        found = linear(row, weight, bias=bias)
        named = linear(input=row, weight=weight, bias=bias)
        product, attended = row @ weight.T, scaled_dot_product_attention(heads, heads, heads, is_causal=True)
    assert found.equal((row.float() @ weight.float().T + bias.float()).to(dtype))
    assert torch.allclose(named.float(), found.float(), atol=0.1)
    assert product.equal((row.float() @ weight.float().T).to(dtype))
    wide = heads.float()
    assert attended.equal(scaled_dot_product_attention(wide, wide, wide, is_causal=True).to(dtype))


def test_a_model_computes_all_its_products_in_float32(without_instructions: None) -> None:
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=97, **shape)
    model = LlamaForCausalLM(config).to(torch.bfloat16).eval()
    ids = torch.arange(20)[None]
    with torch.no_grad(), ProductTypes() as native:
        expected = model(ids).logits
    with torch.no_grad(), ProductTypes() as types, precision.fast_products():
        found = model(ids).logits
    assert (native.found, types.found) == ({torch.bfloat16}, {torch.float32})
    assert found.dtype == torch.bfloat16
    assert torch.allclose(found.float(), expected.float(), atol=0.02)


def test_nothing_changes_where_there_are_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("computes_in_bfloat16", "computes_in_float16"):
        monkeypatch.setattr(precision, name, lambda: True)
    row = torch.ones(1, 4, dtype=torch.bfloat16)
    with ProductTypes() as types, precision.fast_products():
        row @ row.T
    assert types.found == {torch.bfloat16}
