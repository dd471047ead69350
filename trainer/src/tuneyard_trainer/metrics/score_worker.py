"""The worker that computes the held-out loss of several models with transformers.

It runs in the quantizer's environment, which reads every format.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from tuneyard_api.contracts.requests import ItemsDone, Score, ScoreOutcome, ScoreRequest
from tuneyard_trainer.data.columns import IGNORED
from tuneyard_trainer.runtime.worker_main import emit, worker_main

Row = tuple[list[int], list[int]]

BATCH_TOKENS = 1024  # padded tokens per forward pass


def score(request: ScoreRequest) -> ScoreOutcome:
    torch.set_num_threads(request.threads or torch.get_num_threads())
    rows = json.loads(request.rows.read_text())
    scores: dict[str, Score] = {}
    for number, (subject, directory) in enumerate(request.models.items()):
        emit(ItemsDone(done=number, total=len(request.models), item=subject))
        scores[subject] = score_model(directory, rows)
    return ScoreOutcome(scores=scores)


def score_model(directory: Path, rows: Sequence[Row]) -> Score:
    model = AutoModelForCausalLM.from_pretrained(
        directory,
        dtype=torch.bfloat16,
        local_files_only=True,
        device_map={"": 0} if torch.cuda.is_available() else None,
    ).eval()
    nll, tokens = 0.0, 0
    with torch.inference_mode():
        for batch in batches(rows):
            batch_nll, batch_tokens = score_batch(model, batch)
            nll, tokens = nll + batch_nll, tokens + batch_tokens
    return Score(nll=nll, tokens=tokens)


def score_batch(model: torch.nn.Module, batch: Sequence[Row]) -> tuple[float, int]:
    """Summed negative log-likelihood of the supervised tokens, and their number."""
    width = max(len(ids) for ids, _ in batch)
    device = next(model.parameters()).device
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row, _ in batch], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row, _ in batch], device=device)
    labels = torch.tensor([[*row, *[IGNORED] * (width - len(row))] for _, row in batch], device=device)
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
    targets = labels[:, 1:]
    kept = targets != IGNORED
    nll = torch.nn.functional.cross_entropy(logits[kept].to(torch.float32), targets[kept], reduction="sum")
    return float(nll), int(kept.sum())


def batches(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Batches of rows of similar length, with at most BATCH_TOKENS padded tokens unless a single row has more."""
    batch: list[Row] = []
    for row in sorted(rows, key=lambda row: len(row[0])):
        if batch and len(row[0]) * (len(batch) + 1) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


if __name__ == "__main__":
    worker_main(ScoreRequest, score)
