"""What a run minimises beside the likelihood of answers: plain text, and the preference of one answer over another."""

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch.nn import functional
from transformers import AutoModelForCausalLM

from integration.runs import Run
from integration.test_batches import SIZES, adapted
from tuneyard_trainer.backends.peft.batches import padded, row_losses
from tuneyard_trainer.backends.peft.batching import Batching
from tuneyard_trainer.backends.peft.objective import Preference, chosen, rejected
from tuneyard_trainer.data.columns import IGNORED, INPUT_IDS, LABELS, REJECTED, TokenizedRow
from tuneyard_trainer.data.shards import ShardWriter

FULL_LORA: dict[str, Any] = {"rank": 16, "alpha": 32, "dropout": 0.0}
"""The defaults: a full tuning has no adapter."""

CHOSEN, REFUSED = range(40, 60, 2), range(41, 61, 2)
"""The tokens of the answers that are wanted, and of those that are not."""


def answer(prompt: list[int], tokens: Sequence[int], chance: random.Random) -> TokenizedRow:
    said = [chance.choice(tokens) for _ in range(chance.randrange(3, 9))]
    return {INPUT_IDS: [*prompt, *said], LABELS: [IGNORED] * len(prompt) + said}


def pairs(count: int, seed: int) -> list[TokenizedRow]:
    chance = random.Random(seed)  # noqa: S311
    rows = []
    for _ in range(count):
        prompt = [chance.randrange(10, 30) for _ in range(6)]
        refused = answer(prompt, REFUSED, chance)
        rows.append(answer(prompt, CHOSEN, chance) | {REJECTED + name: values for name, values in refused.items()})
    return rows


def both_answers(rows: Sequence[TokenizedRow]) -> list[TokenizedRow]:
    return [*map(chosen, rows), *map(rejected, rows)]


def write(directory: Path, **splits: Sequence[TokenizedRow]) -> Path:
    for split, rows in splits.items():
        writer = ShardWriter(directory / split)
        for row in rows:
            writer.add(row)
        writer.finish()
    return directory


def accuracy(model: torch.nn.Module, rows: Sequence[TokenizedRow]) -> float:
    """The share of pairs whose chosen answer is more likely per token, whatever the base says."""
    model.eval()
    with torch.no_grad():
        losses = row_losses(model, padded(both_answers(rows)), with_some_logits=False, head=None)
    tokens = torch.tensor([sum(label != IGNORED for label in row[LABELS]) for row in both_answers(rows)])
    for_chosen, for_rejected = (losses / tokens).chunk(2)
    return float((for_chosen < for_rejected).float().mean())


def test_preference_is_learned_beyond_the_tuned_model(tmp_path: Path, model: Path) -> None:
    """A model that was tuned to give both kinds of answers learns which one is wanted."""
    trained, held_out = pairs(64, seed=1), pairs(40, seed=2)
    answers = write(tmp_path / "answers", train=both_answers(trained), validation=both_answers(held_out))
    tuning = {"method": "full", "learningRate": 3e-3, "precision": "fp32", "lora": FULL_LORA}
    tuned = Run(tmp_path / "tuned", model, answers, 30, **tuning)
    tuned.train_here()
    tuned_model = tuned.folder / "output"
    before = accuracy(AutoModelForCausalLM.from_pretrained(tuned_model, dtype=torch.float32), held_out)

    data = write(tmp_path / "pairs", train=trained, validation=held_out)
    run = Run(tmp_path / "dpo", tuned_model, data, 30, dpo={"beta": 0.1}, learningRate=5e-3, precision="fp32")
    outcome = run.train_here()
    base = AutoModelForCausalLM.from_pretrained(tuned_model, dtype=torch.float32)
    after = accuracy(PeftModel.from_pretrained(base, run.folder / "output"), held_out)
    assert after >= before + 0.1, f"{before:.2f} before, {after:.2f} after"

    first, last = outcome.curve[0], outcome.curve[-1]
    assert first.validation_loss == pytest.approx(math.log(2), rel=1e-5), "an adapter that changes nothing yet"
    assert first.preference_accuracy == 0
    assert last.preference_accuracy is not None
    assert last.preference_accuracy >= 0.9
    assert last.validation_loss < 0.9 * first.validation_loss


@pytest.mark.parametrize("in_chunks", [False, True])
@pytest.mark.parametrize("packing", [False, True])
def test_the_loss_of_a_pair_is_that_of_the_paper(packing: bool, in_chunks: bool) -> None:
    model, rows = adapted("llama", **SIZES), pairs(7, seed=3)
    model.eval()

    def likelihood(row: TokenizedRow) -> torch.Tensor:
        logits = model(torch.tensor([row[INPUT_IDS]])).logits[0, :-1]
        return -functional.cross_entropy(logits, torch.tensor(row[LABELS][1:]), reduction="sum", ignore_index=IGNORED)

    margins = []
    for row in rows:
        with torch.no_grad(), model.disable_adapter():
            base = likelihood(chosen(row)) - likelihood(rejected(row))
        margins.append(0.3 * (likelihood(chosen(row)) - likelihood(rejected(row)) - base))
    expected = sum(-torch.log(torch.sigmoid(margin)) for margin in margins)

    batching = Batching.of(model, rows, packing)
    assert batching.is_packed == packing
    objective = Preference(batching.in_chunks(model, rows) if in_chunks else batching, beta=0.3)
    summed = objective.summed(model, objective.collate(rows))
    assert summed.loss.item() == pytest.approx(expected.item(), rel=1e-4)
    assert summed.preferred is not None
    assert summed.preferred.item() == sum(margin.item() > 0 for margin in margins)
    gradients = [torch.autograd.grad(loss, weights(model)) for loss in (summed.loss, expected)]
    for found, wanted in zip(*gradients, strict=True):
        assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-5)


def weights(model: PeftModel) -> list[torch.Tensor]:
    return [weight for weight in model.parameters() if weight.requires_grad]


def test_a_run_of_pairs_resumes_to_the_same_bytes(tmp_path: Path, model: Path) -> None:
    data = write(tmp_path / "pairs", train=pairs(20, seed=1), validation=pairs(8, seed=2))
    expected = Run(tmp_path / "uninterrupted", model, data, 4, dpo={}, learningRate=1e-2)
    expected.train()
    run = Run(tmp_path / "stopped", model, data, 4, dpo={}, learningRate=1e-2)
    assert run.train(stop=True).steps == 1
    assert run.train(resume=run.checkpoint(1)).steps == 4
    assert run.weights == expected.weights
    assert run.outcome == expected.outcome


def test_plain_text_is_trained(tmp_path: Path, model: Path) -> None:
    """Rows of text, every token of which is trained: continued pre-training."""
    chance = random.Random(5)  # noqa: S311
    texts = []
    for _ in range(52):
        begin = chance.randrange(100)
        ids = [100 + (begin + index) % 20 for index in range(24)]
        texts.append({INPUT_IDS: ids, LABELS: ids})
    data = write(tmp_path / "texts", train=texts[:40], validation=texts[40:])
    outcome = Run(tmp_path / "run", model, data, 20, precision="fp32").train_here()
    assert outcome.curve[-1].validation_loss < 0.95 * outcome.curve[0].validation_loss
