"""The status of a ModelServer."""

from datetime import datetime
from typing import Final

from tuneyard_api import reasons
from tuneyard_api.kinds.modelserver import ServedRevision
from tuneyard_operator.machinery.conditions import Condition, conditions
from tuneyard_operator.machinery.objects import Json, condition_in, generation, name, namespace
from tuneyard_operator.modelserver.artifact import release_of
from tuneyard_operator.modelserver.children import selector
from tuneyard_operator.modelserver.observe import World
from tuneyard_operator.modelserver.revisions import Revision, Revisions
from tuneyard_operator.modelserver.rollout import Failure, Rollout
from tuneyard_operator.modelserver.speculation import speculative_status

BAD_ARTIFACT: Final = (reasons.ARTIFACT_CORRUPT, reasons.ARTIFACT_NOT_FOUND)


def write_status(world: World, revisions: Revisions, rollout: Rollout, now: datetime) -> Json:
    """The whole status."""
    server = world.server
    before = server.get("status", {})
    described = rollout.serving or rollout.target_revision
    revision = revisions.get(described)
    served = _served(revisions, rollout)
    observed = generation(server)
    current = _conditions(server, revisions, rollout)
    status: Json = {
        "observedGeneration": observed,
        "url": f"http://{name(server)}.{namespace(server)}.svc",
        "replicas": revision.counts.existing if revision else 0,
        "readyReplicas": revision.counts.ready if revision else 0,
        "conditions": conditions(current, before.get("conditions", []), observed, now),
    }
    optional = {
        "release": rollout.target.release.wire() if rollout.target else before.get("release"),
        "served": served,
        "previous": _previous(before, served),
        "failed": rollout.rolled_back.wire() if rollout.rolled_back else None,
        "attempt": rollout.attempt,
        "reason": _reason(current, revisions, rollout),
        "speculative": speculative_status(server, world.speculation),
        "rollout": rollout.decision.state.wire() if rollout.decision.state else None,
        "selector": _selector(server, described) if described else None,
    }
    return status | {field: value for field, value in optional.items() if value}


def _selector(server: Json, revision: str) -> str:
    """The pods of a revision, for the scale subresource."""
    return ",".join(f"{key}={value}" for key, value in sorted(selector(server, revision).items()))


def _served(revisions: Revisions, rollout: Rollout) -> Json | None:
    revision = revisions.get(rollout.serving)
    if revision is None:
        return None
    target = rollout.target
    release = target.release if target and target.revision == revision.name else release_of(revision.deployment)
    return ServedRevision(revision=revision.name, digest=release.digest, format=release.format, uri=release.uri).wire()


def _previous(before: Json, served: Json | None) -> Json | None:
    """The revision that was served before the one that is served now."""
    last: Json | None = before.get("served")
    has_changed = last and served and last["revision"] != served["revision"]
    return last if has_changed else before.get("previous")


def _conditions(server: Json, revisions: Revisions, rollout: Rollout) -> list[Condition]:
    found = [_available(server, revisions, rollout), _progressing(revisions, rollout)]
    if failure := rollout.degraded:
        found.append(Condition("Degraded", True, failure.reason, degraded_message(server, rollout, failure)))
    if verified := _artifact_verified(server, revisions, rollout):
        found.append(verified)
    return found


def degraded_message(server: Json, rollout: Rollout, failure: Failure) -> str:
    """What is wrong, and what is done about it."""
    message = failure.message if failure.message.endswith((".", "!", "?")) else f"{failure.message}."
    if failure == rollout.rolled_back:
        return (
            f"{message} Revision {failure.revision} was rolled back, revision {rollout.serving} keeps the traffic. "
            "It is tried again when the spec, spec.rollout or the operator's image changes, or by: "
            f"kubectl tuneyard retry {name(server)}"
        )
    if failure == rollout.failure and not failure.is_final:
        return f"{message} Its pods go on waiting, and it is rolled out as soon as they start."
    return message


def _reason(found: list[Condition], revisions: Revisions, rollout: Rollout) -> str | None:
    """One word for what keeps it from being ready and up to date, the most exact one that is known."""
    by_type = {condition.type: condition for condition in found}
    if degraded := by_type.get("Degraded"):
        return degraded.reason
    target, serving = revisions.get(rollout.target_revision), revisions.get(rollout.serving)
    progressing, available = by_type["Progressing"], by_type["Available"]
    if progressing.status:
        return (target.reason if target else "") or progressing.reason
    if not available.status:
        return (serving.reason if serving else "") or available.reason
    return progressing.reason if progressing.reason != reasons.COMPLETED else None


def _available(server: Json, revisions: Revisions, rollout: Rollout) -> Condition:
    revision = revisions.get(rollout.serving)
    if revision and revision.counts.ready and rollout.traffic.get(revision.name):
        message = f"{revision.counts.ready} of {revision.counts.existing} replicas are ready"
        return Condition("Available", True, reasons.SERVING, message)
    return Condition("Available", False, *_why_unavailable(server, revisions, rollout))


def _why_unavailable(server: Json, revisions: Revisions, rollout: Rollout) -> tuple[str, str]:
    """(reason, message)"""
    described = rollout.serving or rollout.target_revision
    if failure := _failure_of_what_serves(rollout):
        return failure.reason, failure.message
    if rollout.waiting_for and described is None:
        return rollout.waiting_for
    if server["spec"].get("replicas") == 0:
        return reasons.SCALED_TO_ZERO, "spec.replicas is 0"
    if rollout.decision.takes_down:
        return reasons.MAKING_ROOM, rollout.decision.message
    revision = revisions.get(described)
    message = revision.message if revision else ""
    return reasons.NOT_READY, message or f"no replica of revision {described} is ready"


def _failure_of_what_serves(rollout: Rollout) -> Failure | None:
    """A failure that leaves nothing to serve: not that of a target beside it."""
    failure = rollout.degraded
    if failure is None or failure == rollout.rolled_back:
        return None
    return failure if failure.is_final or failure == rollout.crash else None


def _progressing(revisions: Revisions, rollout: Rollout) -> Condition:
    target = rollout.target_revision
    if rollout.waiting_for and target in (None, rollout.serving):
        return Condition("Progressing", False, *rollout.waiting_for)
    if target == rollout.serving:
        return Condition("Progressing", False, reasons.COMPLETED, f"revision {target} is served")
    if rollout.is_scaled_to_zero:
        message = f"revision {target} is rolled out when spec.replicas is above 0"
        return Condition("Progressing", False, reasons.SCALED_TO_ZERO, message)
    if rollout.failure:
        return Condition("Progressing", False, rollout.failure.reason, rollout.failure.message)
    revision = revisions.get(target)
    details = (rollout.decision.message, revision.message if revision else "")
    detail = "".join(f": {each}" for each in details if each)
    return Condition("Progressing", True, reasons.ROLLING_OUT, f"revision {target} is being rolled out{detail}")


def _artifact_verified(server: Json, revisions: Revisions, rollout: Rollout) -> Condition | None:
    """About the target's artifact where something is known of it, else about the one that is served."""
    target = revisions.get(rollout.target_revision)
    if problem := _bad_artifact(target, rollout):
        return problem
    if target and target.is_verified:
        return _verified(target)
    serving = revisions.get(rollout.serving)
    return _verified(serving) if serving and _was_verified(server, serving) else None


def _bad_artifact(target: Revision | None, rollout: Rollout) -> Condition | None:
    for problem in (target.trouble if target else None, rollout.failure):
        if problem and problem.reason in BAD_ARTIFACT:
            return Condition("ArtifactVerified", False, problem.reason, problem.message)
    return None


def _verified(revision: Revision) -> Condition:
    return Condition("ArtifactVerified", True, reasons.VERIFIED, release_of(revision.deployment).digest)


def _was_verified(server: Json, serving: Revision) -> bool:
    """A ready replica has verified its artifact. The status remembers it when the pods are gone."""
    last = condition_in(server.get("status", {}).get("conditions", []), "ArtifactVerified")
    is_remembered = (last.get("status"), last.get("message")) == ("True", release_of(serving.deployment).digest)
    return serving.is_verified or serving.counts.ready > 0 or is_remembered
