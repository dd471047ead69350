"""The worker that measures GGUF models on held-out rows with llama.cpp, the engine that serves them.

It is given tokens, as the worker of the other formats is: the figures can be compared.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tuneyard_api.contracts.requests import ItemsDone, Score, ScoreOutcome, ScoreRequest
from tuneyard_api.contracts.speed import TOGETHER
from tuneyard_trainer.metrics.answers import ANSWER_TOKENS, answered
from tuneyard_trainer.metrics.comparison import Logits, log_softmax
from tuneyard_trainer.metrics.llamacpp_binding import GgufModel, loaded
from tuneyard_trainer.metrics.speed import GENERATED_TOKENS, PROMPT_TOKENS, measure_speed
from tuneyard_trainer.metrics.tally import HeldOut, Row, Tally, predicted
from tuneyard_trainer.runtime.worker_main import emit, worker_main


def score(request: ScoreRequest) -> ScoreOutcome:
    held_out = HeldOut.of(request)
    asked = sum(len(prompt) + ANSWER_TOKENS for prompt in held_out.prompts)
    longest = max(TOGETHER * (PROMPT_TOKENS + GENERATED_TOKENS), asked, *map(len, held_out.texts))
    scores: dict[str, Score] = {}
    for number, (subject, directory) in enumerate(request.models.items()):
        emit(ItemsDone(done=number, total=len(request.models), item=subject))
        with loaded(next(directory.glob("*.gguf")), longest, request.threads, sequences=TOGETHER) as model:
            scores[subject] = score_model(model, held_out, Tally.of(request, subject))
    return ScoreOutcome(scores=scores)


def score_model(model: GgufModel, held_out: HeldOut, tally: Tally) -> Score:
    score_rows(model, held_out.rows, tally)
    if tally.general:
        score_rows(model, held_out.general, tally.general)
    speed = measure_speed(model.generate, held_out.rows)
    answers = answered(model.generate, held_out.prompts, tally.end_tokens)
    return tally.score(memory_bytes=model.size_bytes, speed=speed, engine="llama.cpp", answers=answers)


def score_rows(model: GgufModel, rows: Sequence[Row], tally: Tally) -> None:
    """Adds the answer tokens of all rows to the tally."""
    for number, (ids, labels) in enumerate(rows):
        # The logits of a position are those of the next token.
        wanted = [position - 1 for position in predicted(labels)]
        kept: list[Logits] = []
        for positions, logits in model.logits(ids, wanted):
            tokens = [position + 1 for position in positions]
            tally.add(labels, token_nll(logits, [labels[position] for position in tokens]), tokens)
            if number in tally.compared:
                kept.append(logits.copy())
        if kept:
            tally.compare(number, np.concatenate(kept))


def token_nll(logits: Logits, targets: Sequence[int]) -> NDArray[np.floating]:
    """Negative log-likelihood of each target, in nats. logits: [tokens, vocabulary]."""
    return -log_softmax(logits)[np.arange(len(targets)), list(targets)]


if __name__ == "__main__":
    worker_main(ScoreRequest, score)
