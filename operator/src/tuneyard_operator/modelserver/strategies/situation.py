"""What a rollout strategy sees, and what it decides."""

from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

from tuneyard_api.kinds.modelserver import Rollout, RolloutStatus
from tuneyard_operator.modelserver.revisions import Counts


class Situation(NamedTuple):
    """What a strategy decides from. Revisions are given by name; None means that there is none."""

    target: str | None  # the revision that the spec asks for
    serving: str | None  # the revision that has the traffic, and was ready
    has_failed: bool  # the target failed, or the API server rejected an object of it
    replicas: int  # spec.replicas
    revisions: Mapping[str, Counts]  # every revision that exists
    options: Rollout  # spec.rollout
    state: RolloutStatus | None  # what the strategy has stored about this target; None at the beginning
    now: datetime

    def is_ready(self, revision: str | None) -> bool:
        """Whether a revision has all replicas that the spec asks for, and they are available."""
        counts = self.revisions.get(revision or "")
        return counts is not None and counts.all_available and counts.desired == self.replicas


class Decision(NamedTuple):
    """What a strategy wants next. A revision that is in neither mapping is deleted."""

    traffic: Mapping[str, int]  # percent by revision; they sum to 100, or there are none
    replicas: Mapping[str, int]  # of every revision that is to exist
    state: RolloutStatus | None = None  # kept in status.rollout, and given back with the next situation
    requeue_after: float | None = None  # seconds until the next decision; None: when something changes
