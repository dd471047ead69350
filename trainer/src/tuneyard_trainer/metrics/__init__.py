"""Metrics: one module each, which computes a figure from what the score worker has summed up."""

from collections.abc import Mapping
from importlib import import_module
from typing import Protocol, cast

from tuneyard_api.contracts.requests import Score
from tuneyard_api.kinds.finetunejob_status import Measurement
from tuneyard_api.registry import METRICS, module_name


class Metric(Protocol):
    """What the module of a metric has."""

    def value(self, score: Score) -> float | None:
        """None: the job has no rows for it."""
        ...


def metric_of(name: str) -> Metric:
    """The module of a metric of tuneyard_api.registry.METRICS."""
    return cast(Metric, import_module(f"{__name__}.{module_name(name)}"))


def measure(scores: Mapping[str, Score]) -> list[Measurement]:
    """Every metric of every model, as far as the job has rows for it.

    Args:
        scores: by subject: base, tuned or an artifact's format.
    """
    return [
        Measurement(subject=subject, metric=name, value=value)
        for name in METRICS
        for subject, score in scores.items()
        if (value := metric_of(name).value(score)) is not None
    ]
