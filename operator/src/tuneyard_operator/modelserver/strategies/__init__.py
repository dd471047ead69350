"""The rollout strategies: a new one is one file here and one line in STRATEGIES."""

from collections.abc import Callable
from typing import Final

from tuneyard_operator.modelserver.strategies.situation import Decision, Situation
from tuneyard_operator.modelserver.strategies.surge import surge

STRATEGIES: Final[dict[str, Callable[[Situation], Decision]]] = {"Surge": surge}
