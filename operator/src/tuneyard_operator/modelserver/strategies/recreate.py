"""Recreate: the old revision is taken down before the new one starts; if that fails, the old one comes back.

The phases that it stores: Stopping, while pods of the old revision exist, and Starting.
"""

from typing import Final

from tuneyard_operator.modelserver.strategies import surge
from tuneyard_operator.modelserver.strategies.situation import Decision, Situation

STOPPING: Final = "Stopping"
STARTING: Final = "Starting"
# Nothing serves meanwhile, so a revision that finds no room is given up soon.
GIVE_UP_SECONDS: Final = 60.0
POLL_SECONDS: Final = 5.0


def decide(situation: Situation) -> Decision:
    if situation.is_settled:
        return surge.decide(situation)
    target, serving = str(situation.target), str(situation.serving)
    old = situation.counts(serving)
    is_starting = situation.state is not None and situation.state.phase == STARTING
    if not is_starting and (old.desired or old.existing or old.stopping):
        message = f"revision {serving} is taken down first"
        state = situation.enter(STOPPING)
        return Decision({serving: 100}, {serving: 0}, state, POLL_SECONDS, message)
    state, waited = situation.enter(STARTING), situation.seconds_without_room()
    if waited is not None and min(waited, situation.seconds_in_phase()) >= GIVE_UP_SECONDS:
        failure = f"there was no room for {GIVE_UP_SECONDS:.0f} s after revision {serving} was taken down"
        return Decision({serving: 100}, {serving: situation.replicas}, failure=failure)
    message = f"revision {serving} was taken down for it"
    return Decision({serving: 100}, {serving: 0, target: situation.replicas}, state, POLL_SECONDS, message)
