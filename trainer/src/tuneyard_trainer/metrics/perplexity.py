"""Perplexity: the exponential of the mean negative log-likelihood per supervised token (in nats)."""

import math

from tuneyard_api.contracts.requests import Likelihood, Score

MAX_MEAN = 700.0  # the exponential of more is not a finite number


def value(score: Score) -> float:
    return perplexity_of(score)


def perplexity_of(rows: Score | Likelihood) -> float:
    return math.exp(min(rows.nll / rows.tokens, MAX_MEAN))
