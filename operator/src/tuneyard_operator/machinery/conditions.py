"""Standard conditions: the transition time moves only with the status."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import NamedTuple

from tuneyard_operator.machinery.objects import Json, condition_in


class Condition(NamedTuple):
    """What a condition says now."""

    type: str
    status: bool
    reason: str
    message: str = ""


def timestamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def conditions(said: Iterable[Condition], before: Iterable[Json], generation: int, now: datetime) -> list[Json]:
    """The list for status; a condition that nothing is said about goes."""
    before = list(before)
    return [_condition(each, condition_in(before, each.type), generation, now) for each in said]


def _condition(said: Condition, before: Json, generation: int, now: datetime) -> Json:
    status = "True" if said.status else "False"
    unchanged = before.get("status") == status
    return {
        "type": said.type,
        "status": status,
        "reason": said.reason,
        "message": said.message,
        "observedGeneration": generation,
        "lastTransitionTime": before["lastTransitionTime"] if unchanged else timestamp(now),
    }
