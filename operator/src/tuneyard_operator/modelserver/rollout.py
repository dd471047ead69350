"""Decides which revisions exist, with how many replicas, and which of them get the traffic."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final, NamedTuple

from tuneyard_api import names, reasons
from tuneyard_api.kinds.modelserver import ModelServerSpec, Release, RolloutStatus
from tuneyard_operator.machinery.objects import Json, hash8
from tuneyard_operator.machinery.plan import Rejection
from tuneyard_operator.modelserver.artifact import Waiting
from tuneyard_operator.modelserver.revisions import Revision, Revisions
from tuneyard_operator.modelserver.strategies import strategy_of
from tuneyard_operator.modelserver.strategies.situation import NO_ROOM, Decision, Situation

# Where the old revision was taken down, pods that do not start are given up sooner than by their deadline.
STUCK_SECONDS: Final = 60.0


class Target(NamedTuple):
    """The revision that the spec asks for."""

    revision: str
    release: Release
    pod: Json  # the pod spec, whose hash is the revision's name


class Asked(NamedTuple):
    """What the spec asks for."""

    spec: ModelServerSpec
    target: Target | None
    waiting_for: Waiting | None  # why the target is not a newer release, or there is none
    attempt: str  # see attempt_of

    @property
    def revision(self) -> str | None:
        return self.target.revision if self.target else None


class Failure(NamedTuple):
    """Why a revision is not ready."""

    revision: str
    digest: str
    reason: str
    message: str
    is_final: bool = True  # False: it may become ready by itself

    def wire(self) -> Json:
        return {"revision": self.revision, "digest": self.digest, "reason": self.reason, "message": self.message}


class Rollout(NamedTuple):
    """Where a rollout is, once its decision is carried out."""

    target: Target | None
    serving: str | None  # the revision that has the traffic, and was ready
    waiting_for: Waiting | None  # why the target is not a newer release, or there is none
    failure: Failure | None  # why the target does not become ready
    rolled_back: Failure | None  # the same, where the target was deleted because another revision serves
    traffic: Mapping[str, int]  # percent by revision
    decision: Decision
    attempt: str | None
    crash: Failure | None = None  # what has ended in the pods of the revision that serves; they are restarted
    is_scaled_to_zero: bool = False

    @property
    def target_revision(self) -> str | None:
        return self.target.revision if self.target else None

    @property
    def degraded(self) -> Failure | None:
        """The cause of the condition Degraded."""
        return self.failure or self.crash

    @property
    def is_progressing(self) -> bool:
        """Whether the target is still to become ready."""
        is_new = self.target is not None and self.target_revision != self.serving
        return is_new and self.failure is None and not self.is_scaled_to_zero


def attempt_of(server: Json) -> str:
    """What has no part in the pods, but asks to try again what was rolled back: the deadline, or a user."""
    retry = server["metadata"].get("annotations", {}).get(names.ANNOTATION_RETRY)
    return hash8([server["spec"].get("rollout", {}), retry])


def decide(asked: Asked, revisions: Revisions, status: Json, rejection: Rejection | None, now: datetime) -> Rollout:
    """Asks the strategy of the spec. A pure function.

    Args:
        status: of the ModelServer, before this plan.
        rejection: of an object of the previous decision, which was not carried out.

    Raises:
        ValueError: the strategy's weights do not sum to 100.
    """
    spec, revision = asked.spec, asked.revision
    last_serving = serving_revision(revisions, status)
    failure = _failure(asked, last_serving, revisions, status)
    situation = Situation(
        target=revision,
        serving=last_serving,
        has_failed=_is_final(failure) or rejection is not None,
        replicas=spec.replicas,
        revisions={name: found.counts for name, found in revisions.existing.items()},
        options=spec.rollout,
        state=_state(status, asked),
        now=now,
        leaving=sum(count for name, count in revisions.pods.items() if name not in (revision, last_serving)),
    )
    decision, failure = _decision(asked, situation, revisions, failure)
    if rejection:
        decision = decision._replace(state=situation.state)
    takes_over = rejection is None and _takes_over(decision, situation, revisions)
    serving = revision if takes_over else last_serving
    return Rollout(
        target=asked.target,
        serving=serving,
        waiting_for=asked.waiting_for,
        failure=_rejected(rejection, revision) if rejection else failure,
        rolled_back=failure if _is_final(failure) and serving not in (None, revision) else None,
        traffic=_traffic_now(revisions) if rejection else decision.traffic,
        decision=decision,
        attempt=asked.attempt,
        crash=_crash(revisions.get(serving)),
        is_scaled_to_zero=spec.replicas == 0,
    )


def _decision(
    asked: Asked, situation: Situation, revisions: Revisions, failure: Failure | None
) -> tuple[Decision, Failure | None]:
    """What the strategy decides; where it gives the target up, what it decides after that failure."""
    name = asked.spec.rollout.strategy
    strategy = strategy_of(name)
    decision = _checked(strategy(situation), name)
    if not decision.failure or asked.target is None:
        return decision, failure
    seen = revisions.get(asked.target.revision)
    message = f"{decision.failure}: {seen.message}" if seen and seen.message else decision.failure
    failure = Failure(asked.target.revision, asked.target.release.digest, reasons.UNSCHEDULABLE, message)
    return _checked(strategy(situation._replace(has_failed=True, state=None)), name), failure


def _is_final(failure: Failure | None) -> bool:
    return failure is not None and failure.is_final


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
        attempt=status.get("attempt"),
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


def _state(status: Json, asked: Asked) -> RolloutStatus | None:
    """What the strategy has stored about this target."""
    if "rollout" not in status:
        return None
    state = RolloutStatus.model_validate(status["rollout"])
    is_given_up = state.phase == NO_ROOM and status.get("attempt", asked.attempt) != asked.attempt
    return state if state.revision == asked.revision and not is_given_up else None


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


def _failure(asked: Asked, serving: str | None, revisions: Revisions, status: Json) -> Failure | None:
    """Why the target has failed, or is late.

    A target that was rolled back stays so until another attempt is asked for. Where no other revision serves, it is
    tried all the time.
    """
    target = asked.target
    if target is None:
        return None
    last, digest = status.get("failed", {}), target.release.digest
    is_same_attempt = status.get("attempt", asked.attempt) == asked.attempt
    if last.get("revision") == target.revision and serving not in (None, target.revision) and is_same_attempt:
        return Failure(target.revision, digest, last["reason"], last["message"])
    seen = revisions.get(target.revision)
    if seen is None or seen.counts.all_available:
        return None
    trouble = seen.trouble
    if trouble and (trouble.is_final or trouble.is_late):
        return Failure(target.revision, digest, trouble.reason, trouble.message, is_final=trouble.is_final)
    if seen.stuck.seconds > STUCK_SECONDS and _is_taken_down(revisions.get(serving), target, asked.spec):
        message = seen.stuck.message.removeprefix(f"{seen.stuck.reason}: ")
        return Failure(target.revision, digest, seen.stuck.reason, message)
    return None


def _is_taken_down(serving: Revision | None, target: Target, spec: ModelServerSpec) -> bool:
    """Whether the revision that served has no pods any more, so that the target may start."""
    if serving is None or serving.name == target.revision:
        return False
    return serving.counts.ready == 0 and serving.counts.desired < spec.replicas


def _crash(serving: Revision | None) -> Failure | None:
    """What has ended in the pods of the revision that serves; they are restarted."""
    trouble = serving.trouble if serving else None
    if serving is None or trouble is None or not trouble.has_crashed:
        return None
    if serving.counts.all_available or not serving.was_ready:
        return None
    return Failure(serving.name, "", trouble.reason, trouble.message, is_final=False)


def _rejected(rejection: Rejection, target: str | None) -> Failure:
    return Failure(target or "", "", reasons.REFUSED, f"{rejection.what}: {rejection.message}")
