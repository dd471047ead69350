"""Decides what a FineTuneJob needs next: a pure function of what was observed."""

from datetime import datetime

from tuneyard_operator.finetunejob.observe import World
from tuneyard_operator.finetunejob.policies import POLICIES
from tuneyard_operator.finetunejob.state import State
from tuneyard_operator.machinery.plan import Plan
from tuneyard_operator.settings import Settings


def plan(world: World, settings: Settings, now: datetime) -> Plan:
    """One step towards the end of the chain; the same step again while nothing has changed."""
    state = State(world, settings, now)
    return next(filter(None, (policy(state) for policy in POLICIES)))
