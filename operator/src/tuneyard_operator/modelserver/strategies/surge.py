"""Surge: the new revision becomes ready beside the old one, which has the traffic until then."""

from tuneyard_operator.modelserver.strategies.situation import Decision, Situation


def decide(situation: Situation) -> Decision:
    target, serving, replicas = situation.target, situation.serving, situation.replicas
    if target is None:
        return Decision({serving: 100}, {serving: replicas}) if serving else Decision({}, {})
    if replicas == 0:
        return _scaled_to_zero(target, serving)
    takes_over = situation.is_ready(target) and not situation.has_failed
    if serving is None or serving == target or takes_over:
        return Decision({target: 100}, {target: replicas})
    if situation.has_failed:
        return Decision({serving: 100}, {serving: replicas})
    message = ""
    if situation.counts(target).without_room:
        message = (
            f"there is no room beside revision {serving}, which strategy {situation.options.strategy} keeps. Add room, "
            "or write rollout.strategy: Auto, which takes the old revision down first where there is no room"
        )
    return Decision({serving: 100}, {serving: replicas, target: replicas}, message=message)


def _scaled_to_zero(target: str, serving: str | None) -> Decision:
    """Nothing can be verified without pods: the last good revision stays, and no other one is created."""
    if serving is None:
        return Decision({target: 100}, {})
    return Decision({serving: 100}, {serving: 0})
