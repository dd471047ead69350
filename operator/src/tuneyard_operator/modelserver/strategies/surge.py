"""The new revision becomes ready beside the old one, which has the traffic until then."""

from tuneyard_operator.modelserver.strategies.situation import Decision, Situation


def surge(now: Situation) -> Decision:
    if now.target is None:
        return Decision(now.served, {now.served: now.replicas} if now.served else {})
    if now.served in (None, now.target) or (now.ready and not now.failed):
        return Decision(now.target, {now.target: now.replicas})
    # A revision that was given up is scaled to zero, not removed: its Deployment still shows what it was.
    beside = 0 if now.failed else now.replicas
    return Decision(now.served, {str(now.served): now.replicas, now.target: beside})
