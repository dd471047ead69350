"""What a rollout strategy sees, and what it decides."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final, NamedTuple

from tuneyard_api.kinds.modelserver import Rollout, RolloutStatus
from tuneyard_operator.machinery.conditions import parse_time, timestamp
from tuneyard_operator.modelserver.revisions import Counts

# The phase in which it is not known yet whether there is room.
WAITING_FOR_ROOM: Final = "WaitingForRoom"
# The phase in which a strategy has given up making room; another attempt begins without it.
NO_ROOM: Final = "NoRoom"
NONE: Final = Counts(desired=0, existing=0, ready=0, all_available=True)


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
    leaving: int = 0  # pods of other revisions than these two: they are about to make room

    def counts(self, revision: str | None) -> Counts:
        """The pods of a revision; none where it does not exist."""
        return self.revisions.get(revision or "", NONE)

    def is_ready(self, revision: str | None) -> bool:
        """Whether a revision has all replicas that the spec asks for, and they are available. Of 0 replicas none is."""
        counts = self.counts(revision)
        return counts.all_available and counts.desired == self.replicas > 0

    @property
    def is_settled(self) -> bool:
        """Whether no revision has to give way to another: there is only one, or it is known which one is good."""
        is_alone = self.target is None or self.serving is None or self.serving == self.target
        return is_alone or self.replicas == 0 or self.has_failed or self.is_ready(self.target)

    def seconds_without_room(self) -> float | None:
        """How long pods of the target have waited for room; None where none does."""
        since = self.counts(self.target).without_room_since
        return max(0.0, (self.now - since).total_seconds()) if since else None

    def seconds_in_phase(self) -> float:
        since = self.state.since if self.state else None
        return max(0.0, (self.now - parse_time(since)).total_seconds()) if since else 0.0

    def enter(self, phase: str, step: int | None = None) -> RolloutStatus:
        """The stored state, or a new one where another phase or step begins."""
        if self.state and (self.state.phase, self.state.step) == (phase, step):
            return self.state
        return RolloutStatus(revision=str(self.target), phase=phase, step=step, since=timestamp(self.now))


class Decision(NamedTuple):
    """What a strategy wants next. A revision that is in neither mapping is deleted."""

    traffic: Mapping[str, int]  # percent by revision; they sum to 100, or there are none
    replicas: Mapping[str, int]  # of every revision that is to exist
    state: RolloutStatus | None = None  # kept in status.rollout, and given back with the next situation
    requeue_after: float | None = None  # seconds until the next decision; None: when something changes
    message: str = ""  # what the rollout waits for, or what it takes down
    failure: str = ""  # why the target cannot become ready: it is rolled back

    @property
    def takes_down(self) -> bool:
        """Whether replicas of the old revision are taken down for the target."""
        return self.state is not None and self.state.phase not in (WAITING_FOR_ROOM, NO_ROOM)
