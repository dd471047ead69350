"""Surge: the new revision becomes ready beside the old one, which has the traffic until then."""

from tuneyard_operator.modelserver.strategies.situation import Decision, Situation


def decide(situation: Situation) -> Decision:
    target, serving, replicas = situation.target, situation.serving, situation.replicas
    if target is None:
        return Decision({serving: 100}, {serving: replicas}) if serving else Decision({}, {})
    takes_over = situation.is_ready(target) and not situation.has_failed
    if serving is None or serving == target or takes_over:
        return Decision({target: 100}, {target: replicas})
    # A revision that failed is scaled to zero and not deleted: its Deployment still shows what it was.
    return Decision({serving: 100}, {serving: replicas, target: 0 if situation.has_failed else replicas})
