"""The events of a ModelServer: what has changed between two statuses."""

import re
from collections.abc import Iterator
from typing import Final

from tuneyard_api import reasons
from tuneyard_operator.machinery.events import Event
from tuneyard_operator.machinery.objects import Json, condition_in
from tuneyard_operator.modelserver.rollout import Rollout

ROLLED_OUT: Final = re.compile(r"revision (\w+) is being rolled out")


def events(before: Json, after: Json, rollout: Rollout) -> list[Event]:
    return [
        *_superseded(before, rollout),
        *_waiting(before, after, rollout),
        *_rolling_out(before, after, rollout),
        *_making_room(before, after, rollout),
        *_failed(before, rollout),
        *_served(before, after),
    ]


def _progressing(status: Json) -> Json:
    return condition_in(status.get("conditions", []), "Progressing")


def _waiting(before: Json, after: Json, rollout: Rollout) -> Iterator[Event]:
    last, current = _progressing(before), _progressing(after)
    if rollout.waiting_for and current["message"] == rollout.waiting_for.message != last.get("message"):
        yield Event(rollout.waiting_for.reason, rollout.waiting_for.message, 10)


def _superseded(before: Json, rollout: Rollout) -> Iterator[Event]:
    """The revision that was being rolled out is not wanted any more."""
    found = ROLLED_OUT.match(_progressing(before).get("message", ""))
    if found and rollout.target_revision not in (None, found[1]) and rollout.serving != found[1]:
        yield Event(reasons.SUPERSEDED, f"revision {found[1]} is superseded by {rollout.target_revision}", 15)


def _making_room(before: Json, after: Json, rollout: Rollout) -> Iterator[Event]:
    state, decision = after.get("rollout"), rollout.decision
    if state and decision.takes_down and state != before.get("rollout"):
        yield Event(reasons.MAKING_ROOM, f"revision {state['revision']}: {decision.message}", 35, warning=True)


def _rolling_out(before: Json, after: Json, rollout: Rollout) -> Iterator[Event]:
    last, current = _progressing(before), _progressing(after)
    target = rollout.target
    if current["reason"] != reasons.ROLLING_OUT or target is None:
        return
    started = f"revision {target.revision} is being rolled out"
    if last.get("reason") != reasons.ROLLING_OUT or not last["message"].startswith(started):
        message = f"revision {target.revision}: {target.release.uri} ({target.release.digest[:19]})"
        yield Event(reasons.ROLLING_OUT, message, 20)
    elif current["message"] not in (last["message"], started):
        yield Event(reasons.WAITING, current["message"], 30, warning=True)


def _failed(before: Json, rollout: Rollout) -> Iterator[Event]:
    failure = rollout.degraded
    degraded = condition_in(before.get("conditions", []), "Degraded")
    if failure is None or degraded.get("message", "").startswith(failure.message):
        return
    yield Event(failure.reason, failure.message, 40, warning=True)
    if failure == rollout.rolled_back:
        message = f"revision {failure.revision} is deleted; revision {rollout.serving} keeps the traffic"
        yield Event(reasons.ROLLED_BACK, message, 41, warning=True)


def _served(before: Json, after: Json) -> Iterator[Event]:
    last, current = before.get("served", {}), after.get("served", {})
    if current and last.get("revision") != current["revision"]:
        message = (
            f"revision {current['revision']} receives the traffic: {current.get('uri')} ({current['digest'][:19]})"
        )
        yield Event(reasons.SERVING, message, 50)
