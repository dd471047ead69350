"""How fast a model answers, measured in the same way whatever computes it."""

import time
from collections.abc import Callable, Sequence

from tuneyard_api.contracts.speed import TOGETHER, Speed
from tuneyard_trainer.metrics.tally import Row, predicted

PROMPT_TOKENS = 64
GENERATED_TOKENS = 32

Generate = Callable[[list[list[int]], int], object]
"""Generates so many tokens after each prompt, all at once; no token ends an answer."""


def measure_speed(generate: Generate, rows: Sequence[Row]) -> Speed:
    """The speed of one request alone, from its prompt to its last token, and of several at once."""
    ids = prompt(rows)
    generate([ids], 1)  # what is set up once is not measured
    first = seconds(generate, [ids], 1)
    alone = seconds(generate, [ids], GENERATED_TOKENS)
    together = seconds(generate, [ids] * TOGETHER, GENERATED_TOKENS)
    return Speed(
        seconds_to_first_token=first,
        tokens_per_second=GENERATED_TOKENS / alone,
        tokens_per_second_together=TOGETHER * GENERATED_TOKENS / together,
    )


def prompt(rows: Sequence[Row]) -> list[int]:
    """The beginning of the first row, without its answer; at least one token."""
    ids, labels = rows[0]
    answer = next(iter(predicted(labels)), len(ids))
    return ids[: max(1, min(answer, PROMPT_TOKENS))]


def seconds(generate: Generate, prompts: list[list[int]], tokens: int) -> float:
    begin = time.perf_counter()
    generate(prompts, tokens)
    return time.perf_counter() - begin
