"""Standard conditions, whose transition time changes only with their status."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import NamedTuple

from tuneyard_operator.machinery.errors import described
from tuneyard_operator.machinery.objects import Json, condition_in, generation


class Condition(NamedTuple):
    """A condition as it is to be written."""

    type: str
    status: bool
    reason: str
    message: str = ""


def timestamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def conditions(wanted: Iterable[Condition], before: Iterable[Json], generation: int, now: datetime) -> list[Json]:
    """The list for the status. A condition that is not wanted is left out, even if it was there before."""
    before = list(before)
    return [_condition(condition, condition_in(before, condition.type), generation, now) for condition in wanted]


def with_condition(obj: Json, changed: Condition, now: datetime) -> Json:
    """The status of an object with one condition set or changed, and all else as it is."""
    status: Json = obj.get("status", {})
    before = status.get("conditions", [])
    others = [condition for condition in before if condition["type"] != changed.type]
    observed = generation(obj)
    return status | {
        "observedGeneration": observed,
        "conditions": [*others, *conditions([changed], before, observed, now)],
    }


def defect_message(error: Exception) -> str:
    """For a condition about an object that a reconcile cannot work with."""
    return (
        f"The operator failed to reconcile this object, and tries again: {type(error).__name__}: {described(error)}. "
        "This is a defect of the operator: please report it with the operator's log. To go on meanwhile, undo the last "
        "change of this object or of its children."
    )


def _condition(wanted: Condition, before: Json, generation: int, now: datetime) -> Json:
    status = "True" if wanted.status else "False"
    unchanged = before.get("status") == status
    return {
        "type": wanted.type,
        "status": status,
        "reason": wanted.reason,
        "message": wanted.message,
        "observedGeneration": generation,
        "lastTransitionTime": before["lastTransitionTime"] if unchanged else timestamp(now),
    }
