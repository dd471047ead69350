"""What models answer to some held-out questions, so that people can read the answers beside each other."""

from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Final

from tuneyard_trainer.metrics.tally import Row, predicted

QUESTIONS: Final = 4
ANSWER_TOKENS: Final = 96
PROMPT_TOKENS: Final = 512

Generate = Callable[[list[list[int]], int], list[list[int]]]
"""Generates at most so many tokens after each prompt, each the most likely one."""


def asked_rows(rows: Sequence[Row]) -> list[int]:
    """The numbers of the first QUESTIONS rows that have a question, of at most PROMPT_TOKENS tokens."""
    begins = ((number, next(iter(predicted(labels)), 0)) for number, (_, labels) in enumerate(rows))
    # Plain text, which is trained from its second token on, has none.
    return [number for number, begin in begins if 1 < begin <= PROMPT_TOKENS][:QUESTIONS]


def question_and_answer(row: Row) -> Row:
    """The tokens before the first answer of a row, and those of the answer."""
    ids, labels = row
    positions = predicted(labels)
    last = next((at for at, position in enumerate(positions) if position != positions[0] + at), len(positions))
    return ids[: positions[0]], ids[positions[0] : positions[0] + last]


def answered(generate: Generate, prompts: Sequence[list[int]], end_tokens: frozenset[int]) -> list[list[int]]:
    """The answers up to the first token that ends one, or the first ANSWER_TOKENS tokens of a longer one."""
    if not prompts:
        return []
    return [
        list(takewhile(lambda token: token not in end_tokens, answer))
        for answer in generate(list(prompts), ANSWER_TOKENS)
    ]
