"""Perplexity on held-out rows of dataset.replay: what the tuning has made the model forget."""

from tuneyard_api.contracts.requests import Score
from tuneyard_trainer.metrics.perplexity import perplexity_of


def value(score: Score) -> float | None:
    return perplexity_of(score.general) if score.general else None
