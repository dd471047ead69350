"""The worker that computes the held-out loss of GGUF models with llama.cpp.

It is given tokens, as the worker of the other formats is: the figures can be compared.
"""

import json
from collections.abc import Sequence

import numpy as np

from tuneyard_api.contracts.requests import ItemsDone, Score, ScoreOutcome, ScoreRequest
from tuneyard_trainer.data.columns import IGNORED
from tuneyard_trainer.metrics.llamacpp_binding import GgufModel, Logits, loaded
from tuneyard_trainer.runtime.worker_main import emit, worker_main

Row = tuple[list[int], list[int]]


def score(request: ScoreRequest) -> ScoreOutcome:
    rows: list[Row] = json.loads(request.rows.read_text())
    longest = max(len(ids) for ids, _ in rows)
    scores: dict[str, Score] = {}
    for number, (subject, directory) in enumerate(request.models.items()):
        emit(ItemsDone(done=number, total=len(request.models), item=subject))
        with loaded(next(directory.glob("*.gguf")), longest, request.threads) as model:
            scores[subject] = score_model(model, rows)
    return ScoreOutcome(scores=scores)


def score_model(model: GgufModel, rows: Sequence[Row]) -> Score:
    nll, tokens = 0.0, 0
    for ids, labels in rows:
        # The logits of a position are those of the next token.
        wanted = [position - 1 for position in range(1, len(labels)) if labels[position] != IGNORED]
        for positions, logits in model.logits(ids, wanted):
            nll += summed_nll(logits, [labels[position + 1] for position in positions])
        tokens += len(wanted)
    return Score(nll=nll, tokens=tokens)


def summed_nll(logits: Logits, targets: Sequence[int]) -> float:
    """Summed negative log-likelihood of the targets, in nats. logits: [tokens, vocabulary]."""
    largest = logits.max(axis=1)
    normalizers = np.log(np.exp(logits - largest[:, None]).sum(axis=1, dtype=np.float64)) + largest
    return float((normalizers - logits[np.arange(len(targets)), list(targets)]).sum())


if __name__ == "__main__":
    worker_main(ScoreRequest, score)
