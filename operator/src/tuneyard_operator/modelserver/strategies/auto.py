"""Auto: as Surge where there is room for the pods of both revisions; else replicas of the old one make room.

The phases that it stores: WaitingForRoom, while it is not known whether there is some, whose step is 1 while pods of an
earlier revision are ending; MakingRoom, while pods of the old revision are ending, whose step is the number of replicas
that it keeps; RoomMade, when they are gone; and NoRoom, when there was no room all the same: the old revision is back,
and the new pods wait for room beside it. Pods may drain for minutes, so the time always counts from when they are gone.
"""

from typing import Final

from tuneyard_api.kinds.modelserver import RolloutStatus
from tuneyard_operator.modelserver.strategies import surge
from tuneyard_operator.modelserver.strategies.situation import NO_ROOM, WAITING_FOR_ROOM, Decision, Situation

MAKING_ROOM: Final = "MakingRoom"
ROOM_MADE: Final = "RoomMade"
# The scheduler sees within some seconds that pods have ended.
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
    if _kept(situation) is None:
        if waited is None:
            return as_surge._replace(message="")
        waiting = situation.enter(WAITING_FOR_ROOM, step=min(1, situation.leaving))
        has_just_begun = waiting is not situation.state
        if has_just_begun or situation.leaving or situation.seconds_in_phase() < WAIT_SECONDS:
            return _wait(situation, waiting, as_surge)
    return _make_room(situation, as_surge)


def _wait(situation: Situation, state: RolloutStatus, as_surge: Decision) -> Decision:
    others = "; pods of an earlier revision are still ending" if situation.leaving else ""
    message = f"there is no room beside revision {situation.serving}{others}"
    return as_surge._replace(state=state, requeue_after=POLL_SECONDS, message=message)


def floor(situation: Situation) -> int:
    """How many replicas of the old revision stay."""
    asked = situation.options.min_available
    return min(situation.replicas, situation.replicas // 2 if asked is None else asked)


def _kept(situation: Situation) -> int | None:
    """How many replicas the old revision was left; None before any was taken down."""
    state = situation.state
    if state is None or state.phase not in (MAKING_ROOM, ROOM_MADE):
        return None
    return min(situation.replicas, situation.replicas if state.step is None else state.step)


def _make_room(situation: Situation, as_surge: Decision) -> Decision:
    target, least, left = situation.counts(situation.target), floor(situation), _kept(situation)
    kept = situation.replicas if left is None else left
    if target.without_room and (left is None or _is_made_in_vain(situation, kept)):
        lower = max(least, kept - target.without_room)
        if lower < kept or left is None:
            return _keep(situation, lower, least, as_surge)
        if target.ready >= max(1, least):
            # One Service sends its traffic to one revision: as many as stayed are ready, so it changes now.
            return Decision({str(situation.target): 100}, {str(situation.target): situation.replicas})
        if kept < situation.replicas and situation.seconds_in_phase() >= GIVE_UP_SECONDS:
            return as_surge._replace(state=situation.enter(NO_ROOM), message=_no_room(situation))
    return _keep(situation, kept, least, as_surge)


def _is_gone(situation: Situation, kept: int) -> bool:
    """Whether the pods that were to make room have ended."""
    serving = situation.counts(situation.serving)
    return serving.existing <= kept and not serving.stopping and not situation.leaving


def _is_made_in_vain(situation: Situation, kept: int) -> bool:
    """Whether the scheduler has had time to see that they are gone."""
    is_made = situation.state is not None and situation.state.phase == ROOM_MADE
    return is_made and _is_gone(situation, kept) and situation.seconds_in_phase() >= WAIT_SECONDS


def _keep(situation: Situation, kept: int, least: int, as_surge: Decision) -> Decision:
    """The old revision keeps so many replicas."""
    serving, target, replicas = str(situation.serving), str(situation.target), situation.replicas
    if kept == replicas:
        asked = situation.options.min_available
        why = f"rollout.minAvailable is {asked}" if asked is not None else "half of the replicas stay by default"
        message = f"there is no room beside revision {serving}, whose replicas all stay: {why}. Add room, or lower it"
        return as_surge._replace(state=situation.state, message=message)
    phase, verb = (ROOM_MADE, "was") if _is_gone(situation, kept) else (MAKING_ROOM, "is")
    return Decision(
        {serving: 100},
        {serving: max(kept, least), target: replicas},
        state=situation.enter(phase, kept),
        requeue_after=POLL_SECONDS,
        message=f"revision {serving} {verb} scaled to {kept} of {replicas} to make room",
    )


def _no_room(situation: Situation) -> str:
    return (
        f"there was no room either when revision {situation.serving} was taken down, so it is back. The new pods start "
        "as soon as there is room beside it"
    )
