"""The ladder out of a lack of memory: every rung trains as the settings of the spec do, and a run that climbs ends."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from integration.conftest import ContextFactory, token_rows
from integration.runs import STEPS, Run
from integration.test_batches import SIZES, adapted
from tuneyard_api import reasons
from tuneyard_api.contracts.requests import CHUNKED_LOSS, OFFLOADED_OPTIMIZER, STREAMED_WEIGHTS, TrainOutcome
from tuneyard_api.contracts.results import TrainResult
from tuneyard_trainer.backends.ladder import ladder
from tuneyard_trainer.backends.peft.backend import BACKEND, PeftRequest, native_config
from tuneyard_trainer.backends.peft.batches import Batch
from tuneyard_trainer.backends.peft.batching import Batching
from tuneyard_trainer.backends.peft.memory import OffloadedAdamW
from tuneyard_trainer.backends.peft.worker import fine_tune
from tuneyard_trainer.runtime.errors import DoesNotFit
from tuneyard_trainer.stages import run_stage, train

PLAIN: dict[str, Any] = {"precision": "fp32", "lora": {"rank": 4, "alpha": 8}}


def test_every_rung_has_the_losses_of_the_spec(tmp_path: Path, model: Path, rows: Path) -> None:
    """Without a GPU all but the paged optimizer. Without dropout, whose random numbers depend on the micro batch."""
    spec = Run(tmp_path / "spec", model, rows, **PLAIN)
    expected = [point.validation_loss for point in spec.train_here().curve]
    rungs = ladder(spec.request.training, 1, on_gpu=False, savers=BACKEND.memory_savers)
    assert [rung.memory_savers for rung in rungs[1:]] == [(), (), (CHUNKED_LOSS,), (CHUNKED_LOSS, STREAMED_WEIGHTS)]
    highest = rungs[-1]
    rungs.append(highest._replace(memory_savers=(CHUNKED_LOSS, OFFLOADED_OPTIMIZER)))
    for number, rung in enumerate(rungs[1:]):
        run = Run(tmp_path / f"rung-{number}", model, rows, **PLAIN)
        run.request = native_config(rung.applied_to(run.plain))
        found = [point.validation_loss for point in run.train_here().curve]
        assert found == pytest.approx(expected, rel=1e-4), rung.change
        assert found[-1] != found[0]


class Memory:
    """Holds so many tokens of a micro batch, twice as many with gradient checkpointing; then it is used up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tokens: int, after_steps: int = 0) -> None:
        self.tokens, self.calls, self.free_calls = tokens, 0, after_steps
        self.seen: list[int] = []
        loss = Batching.loss

        def limited(batching: Batching, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
            if torch.is_grad_enabled():
                self.calls += 1
                tokens = batch["input_ids"].numel()
                if self.calls > self.free_calls and tokens > self.tokens:
                    raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {tokens} MiB")
                self.seen.append(tokens)
            return loss(batching, model, batch)

        monkeypatch.setattr(Batching, "loss", limited)

        def here(context: Any, program: Any, request: PeftRequest, **options: Any) -> TrainOutcome:
            outcome = fine_tune(request)
            assert outcome is not None
            return outcome

        monkeypatch.setattr(train, "run_worker", here)


def test_a_stage_climbs_until_the_memory_suffices(new_context: ContextFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    training = {"microBatchSize": 4, "evalSteps": 4, **PLAIN}
    expected = run_stage(new_context("train", training=training))
    assert isinstance(expected.result, TrainResult)

    memory = Memory(monkeypatch, tokens=24)  # one row of at most 23 tokens
    context = new_context("train", training=training, output={"uri": "s3://bucket/limited"})
    outcome = run_stage(context)
    assert isinstance(outcome.result, TrainResult), outcome
    assert max(memory.seen) <= 24
    found = outcome.result.training
    assert [rung.change.partition(",")[0] for rung in found.rungs] == ["microBatchSize 2", "microBatchSize 1"]
    assert all("CUDA out of memory" in rung.cause for rung in found.rungs)
    expected_losses = [point.validation_loss for point in expected.result.training.curve]
    assert [point.validation_loss for point in found.curve] == pytest.approx(expected_losses, rel=0.01)

    attempts = len(memory.seen)
    again = new_context("train", training={**training, "seed": 43}, output={"uri": "s3://bucket/limited"})
    assert run_stage(again).succeeded
    assert len(memory.seen) - attempts == 12 * 4, "it began with one row at a time"


def test_a_memory_that_is_too_small(new_context: ContextFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    Memory(monkeypatch, tokens=3)
    outcome = run_stage(new_context("train", training=PLAIN, output={"uri": "s3://bucket/tiny"}))
    assert (outcome.exit_code, outcome.reason) == (78, reasons.OUT_OF_MEMORY)
    assert "This was tried in vain: microBatchSize 1, 4 of them accumulated in a step; gradientChe" in outcome.message


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_real_lack_of_memory_is_told(method: str, tmp_path: Path, model: Path, rows: Path) -> None:
    """A tensor that no machine can hold: what torch says of it is an error of memory by its text alone."""
    run = Run(tmp_path / "run", model, rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Batching, "loss", lambda *_: torch.empty(2**60))
        with pytest.raises(DoesNotFit) as caught:
            run.train_here()
    assert (caught.value.reason, caught.value.exit_code) == (reasons.OUT_OF_MEMORY, 78)
    assert "Out of memory at step 1" in caught.value.message or "before the first step" in caught.value.message


def test_a_validation_takes_smaller_batches(
    tmp_path: Path, model: Path, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = Run(tmp_path / "expected", model, rows, 1, **PLAIN)
    expected.train_here()
    loss = Batching.loss

    def limited(batching: Batching, trained: torch.nn.Module, batch: Batch) -> torch.Tensor:
        if not torch.is_grad_enabled() and batch["cu_seq_lens_q"].numel() > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return loss(batching, trained, batch)

    monkeypatch.setattr(Batching, "loss", limited)
    run = Run(tmp_path / "run", model, rows, 1, **PLAIN)
    outcome = run.train_here()
    assert run.weights == expected.weights
    for found, point in zip(outcome.curve, expected.outcome.curve, strict=True):
        assert found.validation_loss == pytest.approx(point.validation_loss, rel=1e-5)


def test_another_optimizer_begins_without_moments(
    tmp_path: Path, model: Path, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From AdamW to one in 8 bits, whose state has another form; to the one on the CPU the state fits."""
    run = Run(tmp_path / "run", model, rows, scheduler="linear", **PLAIN)
    assert run.train(stop=True).steps == 1
    checkpoint = run.checkpoint(1)
    (run.folder / "stop").unlink()
    expected = run.train(resume=checkpoint)

    offloaded = Run(tmp_path / "offloaded", model, rows, scheduler="linear", **PLAIN)
    offloaded.request = native_config(
        offloaded.plain.model_copy(update={"memory_savers": (OFFLOADED_OPTIMIZER,), "resume": checkpoint})
    )
    assert offloaded.train_here().curve == expected.curve

    (checkpoint / "optimizer.txt").write_text("paged_adamw_8bit")
    other = Run(tmp_path / "other", model, rows, scheduler="linear", **PLAIN)
    other.request = other.request.model_copy(update={"resume": checkpoint})
    found = other.train_here()
    assert "begins without moments" in capsys.readouterr().out
    assert found.steps == STEPS
    assert found.curve != expected.curve


def losses_and_gradients(model: PeftModel, batching: Batching, batch: Batch) -> tuple[float, torch.Tensor]:
    model.zero_grad()
    loss = batching.loss(model, batch)
    loss.backward()
    return loss.item(), torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])


@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_a_loss_in_chunks_is_the_same(model_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = SIZES if model_type == "llama" else {"vocab_size": 320, "n_embd": 64, "n_layer": 2, "n_head": 4}
    model, rows = adapted(model_type, **sizes), token_rows(40, seed=3)
    model.eval()
    batching = Batching.of(model, rows, packing=True)
    chunked = batching.in_chunks(model, rows[:3])
    assert chunked.head is not None
    batch = batching.collate(rows)
    head_saw: list[int] = []
    chunked.head.register_forward_hook(lambda _, args, output: head_saw.append(output.shape[-1]))
    expected, found = losses_and_gradients(model, batching, batch), losses_and_gradients(model, chunked, batch)
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    assert torch.allclose(found[1], expected[1], rtol=1e-4, atol=1e-6)
    assert head_saw == [320, 64], "in chunks the model itself computes no logits"


def test_a_head_whose_output_is_changed_has_no_chunks(capsys: pytest.CaptureFixture[str]) -> None:
    """Gemma 2 caps the logits after the head. (A head of which they are only scaled gives the same in chunks.)"""
    model, rows = adapted("gemma2", **SIZES, head_dim=16, final_logit_softcapping=0.1), token_rows(6, seed=1)
    batching = Batching.of(model, rows, packing=True).in_chunks(model, rows)
    assert batching.head is None
    assert "changes its head's output" in capsys.readouterr().out


def test_the_offloaded_optimizer_is_adamw() -> None:
    torch.manual_seed(0)
    first = [torch.nn.Parameter(torch.randn(4, 3)), torch.nn.Parameter(torch.randn(5))]
    second = [torch.nn.Parameter(parameter.detach().clone()) for parameter in first]
    options = {"lr": 0.1, "weight_decay": 0.01}
    plain = torch.optim.AdamW([{"params": first}], **options)
    offloaded = OffloadedAdamW([{"params": second}], **options)
    for _ in range(5):
        for one, other in zip(first, second, strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        plain.step()
        offloaded.step()
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    assert all(not torch.equal(one, torch.zeros_like(one)) for one in first)
