"""The events of a ModelServer: what has changed between two looks."""

from collections.abc import Iterator

from tuneyard_operator.machinery.events import Event
from tuneyard_operator.machinery.objects import Json, condition_in
from tuneyard_operator.modelserver.status import ROLLING_OUT, Rollout


def events(before: Json, after: Json, rollout: Rollout) -> list[Event]:
    return [
        *_waiting(before, after, rollout),
        *_rolling_out(before, after, rollout),
        *_failed(before, rollout),
        *_served(before, after),
    ]


def _waiting(before: Json, after: Json, rollout: Rollout) -> Iterator[Event]:
    was, now = (condition_in(each.get("conditions", []), "Progressing") for each in (before, after))
    if rollout.missing and now["message"] == rollout.missing.message != was.get("message"):
        yield Event(rollout.missing.reason, rollout.missing.message, 10)


def _rolling_out(before: Json, after: Json, rollout: Rollout) -> Iterator[Event]:
    was = condition_in(before.get("conditions", []), "Progressing")
    now = condition_in(after["conditions"], "Progressing")
    release = rollout.release
    if now["reason"] != ROLLING_OUT or release is None:
        return
    if was.get("reason") != ROLLING_OUT or f"revision {rollout.target}" not in was.get("message", ""):
        yield Event(ROLLING_OUT, f"revision {rollout.target}: {release.uri} ({release.digest[:19]})", 20)
    elif now["message"] != was.get("message") and ": pod" in now["message"]:
        yield Event("Waiting", now["message"], 30, warning=True)


def _failed(before: Json, rollout: Rollout) -> Iterator[Event]:
    degraded = condition_in(before.get("conditions", []), "Degraded")
    if rollout.failed and degraded.get("message") != rollout.failed.message:
        yield Event(rollout.failed.reason, rollout.failed.message, 40, warning=True)
        if rollout.taken_back:
            kept = f"revision {rollout.failed.revision} is scaled to zero, revision {rollout.served} goes on serving"
            yield Event("RolledBack", kept, 41, warning=True)


def _served(before: Json, after: Json) -> Iterator[Event]:
    was, now = before.get("served", {}), after.get("served", {})
    if now and was.get("revision") != now["revision"]:
        yield Event(
            "Serving", f"revision {now['revision']} has the traffic: {now.get('uri')} ({now['digest'][:19]})", 50
        )
