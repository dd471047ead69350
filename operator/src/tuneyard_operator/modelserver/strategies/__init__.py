"""The rollout strategies: one module each, and one line in tuneyard_api.registry.STRATEGIES."""

from collections.abc import Callable
from importlib import import_module

from tuneyard_api.registry import module_name
from tuneyard_operator.modelserver.strategies.situation import Decision, Situation


def strategy_of(name: str) -> Callable[[Situation], Decision]:
    """The strategy of a name of tuneyard_api.registry.STRATEGIES: the function `decide` of its module."""
    decide: Callable[[Situation], Decision] = import_module(f"{__name__}.{module_name(name)}").decide
    return decide
