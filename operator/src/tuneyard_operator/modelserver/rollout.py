"""Decides which revisions exist, with how many replicas, and which of them get the traffic."""

from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

from tuneyard_api import reasons
from tuneyard_api.kinds.modelserver import ModelServerSpec, Release, RolloutStatus
from tuneyard_operator.machinery.objects import Json
from tuneyard_operator.machinery.plan import Rejection
from tuneyard_operator.modelserver.artifact import Waiting
from tuneyard_operator.modelserver.revisions import Revisions
from tuneyard_operator.modelserver.strategies import strategy_of
from tuneyard_operator.modelserver.strategies.situation import Decision, Situation


class Target(NamedTuple):
    """The revision that the spec asks for."""

    revision: str
    release: Release
    pod: Json  # the pod spec, whose hash is the revision's name


class Failure(NamedTuple):
    """Why a revision does not become ready."""

    revision: str
    digest: str
    reason: str
    message: str

    def wire(self) -> Json:
        return dict(self._asdict())


class Rollout(NamedTuple):
    """Where a rollout is, once its decision is carried out."""

    target: Target | None
    serving: str | None  # the revision that has the traffic, and was ready
    waiting_for: Waiting | None  # why the target is not a newer release, or there is none
    failure: Failure | None  # why the target does not become ready
    rolled_back: Failure | None  # the same, where the target was scaled to zero because another revision serves
    traffic: Mapping[str, int]  # percent by revision
    decision: Decision

    @property
    def target_revision(self) -> str | None:
        return self.target.revision if self.target else None

    @property
    def is_progressing(self) -> bool:
        """Whether the target is still to become ready."""
        return self.target is not None and self.target_revision != self.serving and self.failure is None


def decide(
    spec: ModelServerSpec,
    target: Target | None,
    waiting_for: Waiting | None,
    revisions: Revisions,
    status: Json,
    rejection: Rejection | None,
    now: datetime,
) -> Rollout:
    """Asks the strategy of the spec. A pure function.

    Args:
        status: of the ModelServer, before this plan.
        rejection: of an object of the previous decision, which was not carried out.

    Raises:
        ValueError: the strategy's weights do not sum to 100.
    """
    revision = target.revision if target else None
    last_serving = serving_revision(revisions, status)
    failure = _failure(target, last_serving, revisions, status)
    situation = Situation(
        target=revision,
        serving=last_serving,
        has_failed=failure is not None or rejection is not None,
        replicas=spec.replicas,
        revisions={name: found.counts for name, found in revisions.existing.items()},
        options=spec.rollout,
        state=_state(status, revision),
        now=now,
    )
    decision = _checked(strategy_of(spec.rollout.strategy)(situation), spec.rollout.strategy)
    takes_over = rejection is None and _takes_over(decision, situation, revisions)
    serving = revision if takes_over else last_serving
    return Rollout(
        target=target,
        serving=serving,
        waiting_for=waiting_for,
        failure=_rejected(rejection, revision) if rejection else failure,
        rolled_back=failure if serving not in (None, revision) else None,
        traffic=_traffic_now(revisions) if rejection else decision.traffic,
        decision=decision,
    )


def stay(waiting_for: Waiting, revisions: Revisions, status: Json) -> Rollout:
    """The rollout of a spec that cannot be read: everything stays as it is."""
    state = RolloutStatus.model_validate(status["rollout"]) if "rollout" in status else None
    return Rollout(
        target=None,
        serving=serving_revision(revisions, status),
        waiting_for=waiting_for,
        failure=None,
        rolled_back=None,
        traffic=_traffic_now(revisions),
        decision=Decision({}, {}, state),
    )


def serving_revision(revisions: Revisions, status: Json) -> str | None:
    """The revision that has the traffic, and was ready: the one that the Service selects, or else that of the status.

    The Service is switched before the status is written, and the operator may be killed in between.
    """
    selected = revisions.get(revisions.selected)
    if selected and selected.was_ready:
        return selected.name
    served = revisions.get(status.get("served", {}).get("revision"))
    return served.name if served else None


def _traffic_now(revisions: Revisions) -> dict[str, int]:
    return {revisions.selected: 100} if revisions.selected else {}


def _state(status: Json, target: str | None) -> RolloutStatus | None:
    """What the strategy has stored about this target."""
    if "rollout" not in status:
        return None
    state = RolloutStatus.model_validate(status["rollout"])
    return state if state.revision == target else None


def _checked(decision: Decision, strategy: str) -> Decision:
    weights = decision.traffic.values()
    if weights and (sum(weights) != 100 or min(weights) < 0):
        raise ValueError(f"strategy {strategy} decided on traffic {dict(decision.traffic)}: percents must sum to 100")
    return decision


def _takes_over(decision: Decision, situation: Situation, revisions: Revisions) -> bool:
    """Whether the target gets all traffic, and is or was ready."""
    target = revisions.get(situation.target)
    if target is None or decision.traffic.get(target.name) != 100:
        return False
    return target.was_ready or situation.is_ready(target.name)


def _failure(target: Target | None, serving: str | None, revisions: Revisions, status: Json) -> Failure | None:
    """Why the target has failed.

    A target that was rolled back stays so until the spec changes. Where no other revision serves, it is tried again.
    """
    if target is None:
        return None
    last = status.get("failed", {})
    if last.get("revision") == target.revision and serving not in (None, target.revision):
        return Failure(target.revision, target.release.digest, last["reason"], last["message"])
    seen = revisions.get(target.revision)
    if seen and seen.trouble and seen.trouble.is_final and not seen.counts.all_available:
        return Failure(target.revision, target.release.digest, seen.trouble.reason, seen.trouble.message)
    return None


def _rejected(rejection: Rejection, target: str | None) -> Failure:
    return Failure(target or "", "", reasons.REFUSED, f"{rejection.what}: {rejection.message}")
