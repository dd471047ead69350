"""The rollout strategies: one file each, and one line here and in tuneyard_api.registry."""

from collections.abc import Callable
from typing import Final

from tuneyard_operator.modelserver.strategies import surge
from tuneyard_operator.modelserver.strategies.situation import Decision, Situation

STRATEGIES: Final[dict[str, Callable[[Situation], Decision]]] = {
    "Surge": surge.decide,
}
