"""Auto: as Surge where there is room for the pods of both revisions; else replicas of the old one make room.

The phases that it stores: WaitingForRoom, while it is not known whether there is some; MakingRoom, whose step is the
number of replicas that the old revision keeps; and NoRoom, when its pods were gone and there was no room all the same:
it is back, and the new pods wait for room beside it.
"""

from typing import Final

from tuneyard_operator.modelserver.strategies import surge
from tuneyard_operator.modelserver.strategies.situation import NO_ROOM, WAITING_FOR_ROOM, Decision, Situation

MAKING_ROOM: Final = "MakingRoom"
# The scheduler answers within a second, but pods that are just ending may make room.
WAIT_SECONDS: Final = 15.0
POLL_SECONDS: Final = 5.0
# What is taken down is missed: if it has made no room by then, it comes back.
GIVE_UP_SECONDS: Final = 60.0


def decide(situation: Situation) -> Decision:
    as_surge = surge.decide(situation)
    if situation.is_settled:
        return as_surge
    phase = situation.state.phase if situation.state else ""
    waited = situation.seconds_without_room()
    if phase == NO_ROOM:
        return as_surge._replace(state=situation.state, message=_no_room(situation) if waited is not None else "")
    if phase != MAKING_ROOM:
        if waited is None:
            return as_surge._replace(message="")
        if phase != WAITING_FOR_ROOM or situation.leaving or situation.seconds_in_phase() < WAIT_SECONDS:
            return _wait(situation, as_surge)
    return _make_room(situation, as_surge)


def _wait(situation: Situation, as_surge: Decision) -> Decision:
    """The step is 1 while pods of an earlier revision are ending: the time counts from when they are gone."""
    state = situation.enter(WAITING_FOR_ROOM, step=min(1, situation.leaving))
    others = "; pods of an earlier revision are still ending" if situation.leaving else ""
    message = f"there is no room beside revision {situation.serving}{others}"
    return as_surge._replace(state=state, requeue_after=POLL_SECONDS, message=message)


def floor(situation: Situation) -> int:
    """How many replicas of the old revision stay."""
    asked = situation.options.min_available
    return min(situation.replicas, situation.replicas // 2 if asked is None else asked)


def _make_room(situation: Situation, as_surge: Decision) -> Decision:
    target, least = situation.counts(situation.target), floor(situation)
    is_making_room = situation.state is not None and situation.state.phase == MAKING_ROOM
    step = situation.state.step if is_making_room and situation.state else None
    kept = min(situation.replicas, situation.replicas if step is None else step)
    if target.without_room and _has_made(situation, kept):
        lower = max(least, kept - target.without_room)
        if lower < kept or not is_making_room:
            return _keep(situation, lower, least, as_surge)
        if target.ready >= max(1, least):
            # One Service sends its traffic to one revision: as many as stayed are ready, so it changes now.
            return Decision({str(situation.target): 100}, {str(situation.target): situation.replicas})
        if kept < situation.replicas and situation.seconds_in_phase() >= GIVE_UP_SECONDS:
            return as_surge._replace(state=situation.enter(NO_ROOM), message=_no_room(situation))
    return _keep(situation, kept, least, as_surge)


def _has_made(situation: Situation, kept: int) -> bool:
    """Whether what was taken down is gone, and the scheduler has had time to see that."""
    serving = situation.counts(situation.serving)
    is_gone = serving.existing <= kept and not serving.stopping and not situation.leaving
    is_first = situation.state is None or situation.state.phase != MAKING_ROOM
    return is_first or (is_gone and situation.seconds_in_phase() >= WAIT_SECONDS)


def _keep(situation: Situation, kept: int, least: int, as_surge: Decision) -> Decision:
    """The old revision keeps so many replicas."""
    serving, target, replicas = str(situation.serving), str(situation.target), situation.replicas
    if kept == replicas:
        asked = situation.options.min_available
        why = f"rollout.minAvailable is {asked}" if asked is not None else "half of the replicas stay by default"
        message = f"there is no room beside revision {serving}, whose replicas all stay: {why}. Add room, or lower it"
        return as_surge._replace(state=situation.state, message=message)
    message = f"revision {serving} is scaled to {kept} of {replicas} to make room"
    return Decision(
        {serving: 100},
        {serving: max(kept, least), target: replicas},
        state=situation.enter(MAKING_ROOM, kept),
        requeue_after=POLL_SECONDS,
        message=message,
    )


def _no_room(situation: Situation) -> str:
    return (
        f"there was no room either when revision {situation.serving} was taken down, so it is back. The new pods start "
        "as soon as there is room beside it"
    )
