"""What makes a step cheaper changes nothing else: loss in parts, short rows, shared inputs, what is computed again."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from integration.conftest import token_rows
from integration.test_batches import SIZES
from tuneyard_api.kinds.training import Training
from tuneyard_trainer.backends.peft import cross_entropy, short_rows
from tuneyard_trainer.backends.peft.batches import end_to_end, summed_loss
from tuneyard_trainer.backends.peft.batching import Batching
from tuneyard_trainer.backends.peft.model import share_inputs
from tuneyard_trainer.backends.peft.recompute import recompute_cheap_parts
from tuneyard_trainer.data.columns import INPUT_IDS, TokenizedRow

VOCABULARY = 300


@pytest.mark.parametrize("rows_at_once", [1, 4, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_loss_in_parts(rows_at_once: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_entropy, "PART", rows_at_once * VOCABULARY)
    torch.manual_seed(1)
    given = (3 * torch.randn(10, VOCABULARY)).to(dtype)
    targets, weights = torch.randint(VOCABULARY, (10,)), torch.rand(10)
    found, expected = given.clone().requires_grad_(), given.clone().requires_grad_()
    losses = cross_entropy.cross_entropy(found, targets)
    reference = functional.cross_entropy(expected.float(), targets, reduction="none")
    assert losses.dtype == torch.float32
    assert torch.equal(losses, reference)
    (losses * weights).sum().backward()
    (reference * weights).sum().backward()
    assert found.grad is not None
    assert found.grad.dtype == dtype
    assert torch.allclose(found.grad, expected.grad, rtol=1e-5 if dtype == torch.float32 else 1e-2, atol=1e-7)


def test_the_loss_keeps_the_logits_alone() -> None:
    kept: list[torch.Tensor] = []
    logits = torch.randn(8, VOCABULARY, dtype=torch.bfloat16, requires_grad=True)

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        cross_entropy.cross_entropy(logits, torch.arange(8)).sum()
    assert sum(tensor.nbytes for tensor in kept) == logits.nbytes + 8 * 8


def attention_inputs(tokens: int, dtype: torch.dtype) -> list[torch.Tensor]:
    torch.manual_seed(2)
    return [torch.randn(1, heads, tokens, 16).to(dtype).requires_grad_() for heads in (6, 2, 2)]


@pytest.mark.parametrize("scale", [None, 0.5])
@pytest.mark.parametrize("tokens", [1, 7, 90])
def test_attention_of_a_short_row(tokens: int, scale: float | None) -> None:
    short, exact = attention_inputs(tokens, torch.bfloat16), attention_inputs(tokens, torch.bfloat16)
    weights = torch.randn(1, 6, tokens, 16)
    query, key, value = short
    output = short_rows.causal_attention(query, key, value, scale)
    reference = functional.scaled_dot_product_attention(
        *(tensor.double() for tensor in exact), is_causal=True, scale=scale, enable_gqa=True
    )
    assert output.dtype == torch.bfloat16
    assert torch.allclose(output.double(), reference, rtol=2e-2, atol=1e-2)
    with torch.autocast("cpu", torch.bfloat16):  # as of a layer that is computed again in the backward pass
        (output * weights.bfloat16()).sum().backward()
    (reference * weights.bfloat16().double()).sum().backward()
    for found, expected in zip(short, exact, strict=True):
        assert found.grad is not None and expected.grad is not None
        error = (found.grad - expected.grad).norm()
        at_zero = 1e-5  # a row of one token has no gradient of its query and key: what is left is float32's rounding
        assert error < 5e-3 * expected.grad.norm() + at_zero, "that of bfloat16 alone"


@pytest.mark.parametrize(
    ("tokens", "dtype", "is_short"),
    [(160, torch.bfloat16, True), (161, torch.bfloat16, False), (10, torch.float32, False)],
)
def test_which_rows_are_short(tokens: int, dtype: torch.dtype, is_short: bool) -> None:
    query = attention_inputs(tokens, dtype)[0]
    assert short_rows.is_short(query) == is_short
    assert not short_rows.is_short(query.detach()), "nothing is gained without a gradient"


def adapted(dropout: float = 0.0) -> PeftModel:
    torch.manual_seed(0)
    settings = transformers.AutoConfig.for_model("llama", **SIZES)
    base = transformers.AutoModelForCausalLM.from_config(settings, dtype=torch.bfloat16)
    lora = LoraConfig(r=4, lora_dropout=dropout, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(base, lora)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    return model.train()


class Made(TorchDispatchMode):  # type: ignore[misc]
    """The tensors that are made in the block."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes_of: dict[StorageWeakRef, int] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.bytes_of[StorageWeakRef(storage)] = storage.nbytes()
        return result

    def kept(self) -> int:
        """Bytes of those that still exist."""
        return sum(size for storage, size in self.bytes_of.items() if not storage.expired())


def step(model: PeftModel, rows: list[TokenizedRow]) -> tuple[torch.Tensor, torch.Tensor, int]:
    torch.manual_seed(5)
    with torch.autocast("cpu", torch.bfloat16), Made() as made:
        loss = summed_loss(model, end_to_end(rows), with_some_logits=True)
    kept = made.kept()
    loss.backward()
    gradient = torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])
    return loss.detach(), gradient, kept


def kept_by_steps(
    dropout: float, rows: list[TokenizedRow], *changes: Callable[[PeftModel, Training], None]
) -> list[int]:
    """Bytes that a step keeps before the last change and after it, which changes no bit of the step."""
    training = Training.model_validate({"lora": {"dropout": dropout}})
    found = []
    for applied in (changes[:-1], changes):
        model = adapted(dropout)
        assert Batching.of(model, rows, packing=True).is_packed
        for change in applied:
            change(model, training)
        found.append(step(model, rows))
    (loss, gradient, kept), (other_loss, other_gradient, other_kept) = found
    assert torch.equal(loss, other_loss)
    assert torch.equal(gradient, other_gradient)
    return [kept, other_kept]


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_shared_inputs_change_no_bit(dropout: float) -> None:
    kept, shared_kept = kept_by_steps(dropout, token_rows(6, seed=4), share_inputs)
    assert (shared_kept < 0.95 * kept) == (dropout == 0), "dropout is computed of copies"


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_what_is_computed_again_changes_no_bit(dropout: float) -> None:
    rows = token_rows(6, seed=4)
    kept, other_kept = kept_by_steps(dropout, rows, share_inputs, recompute_cheap_parts)
    norms = 2 * SIZES["num_hidden_layers"]  # and a first one, whose input needs no gradient
    values = norms * SIZES["hidden_size"] + SIZES["num_hidden_layers"] * SIZES["intermediate_size"]
    assert kept - other_kept >= 2 * values * sum(len(row[INPUT_IDS]) for row in rows)


def test_what_is_not_computed_again() -> None:
    model = adapted()
    mlp = type(model.get_base_model().model.layers[0].mlp)

    def replaced(**training: Any) -> set[str]:
        recompute_cheap_parts(model, Training.model_validate(training))
        modules = [module for module in model.modules() if "forward" in vars(module)]
        for module in modules:
            del module.forward
        return {type(module).__name__ for module in modules}

    assert replaced() == {"LlamaRMSNorm", "LlamaMLP"}
    assert replaced(gradientCheckpointing=True) == set(), "whole layers are computed again"
    assert replaced(precision="fp32") == {"LlamaMLP"}, "a norm keeps no copy"
    as_written = mlp.forward
    try:
        mlp.forward = lambda self, hidden: 2 * as_written(self, hidden)
        assert replaced() == {"LlamaRMSNorm"}, "an MLP of another formula is left as it is"
    finally:
        mlp.forward = as_written
