"""What a rollout strategy sees and what it answers."""

from typing import NamedTuple


class Situation(NamedTuple):
    """Revisions are names; None where there is none."""

    target: str | None  # what the spec asks for
    served: str | None  # what was ready and has the traffic
    ready: bool  # the target's replicas are all ready
    failed: bool  # the target was given up
    replicas: int


class Decision(NamedTuple):
    """`traffic`: where the Service points; `replicas` of every revision that is to exist."""

    traffic: str | None
    replicas: dict[str, int]
