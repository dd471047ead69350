"""Perplexity: the exponential of the mean negative log-likelihood per supervised token (in nats)."""

import math

from tuneyard_api.contracts.requests import Score

MAX_MEAN = 700.0  # the exponential of more is not a finite number


def value(score: Score) -> float:
    return math.exp(min(score.nll / score.tokens, MAX_MEAN))
