"""Plans what a ModelServer needs next: a pure function of what was observed."""

from datetime import datetime
from typing import Final

from tuneyard_api import reasons
from tuneyard_api.kinds.modelserver import MODEL_SERVER, ModelServerSpec, Release
from tuneyard_api.validation import explain, read_spec
from tuneyard_operator.machinery.objects import Json, name
from tuneyard_operator.machinery.plan import Plan, Rejection
from tuneyard_operator.modelserver.apply import Changes, changes, lacks_pods
from tuneyard_operator.modelserver.artifact import Waiting, find_release, last_release, loadable
from tuneyard_operator.modelserver.children import ASKED, asked, pod_spec, revision_of
from tuneyard_operator.modelserver.events import events
from tuneyard_operator.modelserver.observe import World
from tuneyard_operator.modelserver.revisions import Revisions, belongs_to_server, read_revisions
from tuneyard_operator.modelserver.rollout import Asked, Rollout, Target, attempt_of, decide, serving_revision, stay
from tuneyard_operator.modelserver.speculation import REQUEUE_SECONDS as SPECULATION_SECONDS
from tuneyard_operator.modelserver.speculation import guesses
from tuneyard_operator.modelserver.status import write_status
from tuneyard_operator.modelserver.turns import waiting
from tuneyard_operator.pods.images import NoImageError
from tuneyard_operator.settings import Settings

NAME_TAKEN: Final = "belongs to someone else. Delete it, or give the ModelServer another name."
# Pods that do not start may cause no events of their own: where the Secret of a volume is missing, for example.
REQUEUE_SECONDS: Final = 15.0


def plan(world: World, settings: Settings, now: datetime) -> Plan:
    """One step towards the revision that the spec asks for; the same again while nothing has changed."""
    server, revisions = world.server, read_revisions(world, now)
    status: Json = server.get("status", {})
    spec, invalid = read_spec(MODEL_SERVER, ModelServerSpec, server)
    if spec is None or invalid:
        message = f"{explain(invalid)}. Change the spec and apply it again."
        return _plan(world, revisions, stay(Waiting(reasons.INVALID_SPEC, message), revisions, status), None, now)
    is_name_taken = world.service is not None and not belongs_to_server(world.service, world)
    rejection = Rejection(f"Service {name(server)}", NAME_TAKEN, final=True) if is_name_taken else world.rejection
    target, waiting_for = _target(world, revisions, spec, settings)
    wanted = Asked(spec, target, waiting_for, attempt_of(server))
    rollout = decide(wanted, revisions, status, rejection, now)
    needed = changes(world, revisions, rollout, spec, settings.retire, now)
    if is_name_taken:
        needed = needed._replace(apply=[], delete=[])
    return _plan(world, revisions, rollout, needed, now)


def _target(
    world: World, revisions: Revisions, spec: ModelServerSpec, settings: Settings
) -> tuple[Target | None, Waiting | None]:
    """The revision that the spec asks for, and why it does not serve a newer release, or why there is none.

    While the FineTuneJob has no new release, its last one is served with the options of the spec.
    """
    found = loadable(find_release(spec.model, world.job), spec)
    waiting_for, release = (None, found) if isinstance(found, Release) else (found, None)
    if release is None:
        status: Json = world.server.get("status", {})
        serving = revisions.get(serving_revision(revisions, status) or revisions.selected)
        release = last_release(spec.model, status, serving.deployment if serving else None)
    try:
        target = _target_of(world.server, spec, release, settings) if release else None
    except NoImageError as error:
        return None, Waiting(reasons.IMAGE_NOT_CONFIGURED, str(error))
    if target and _waits_for_turn(world, revisions, target, settings):
        return None, waiting(settings.max_concurrent_rollouts)
    return target, waiting_for


def _waits_for_turn(world: World, revisions: Revisions, target: Target, settings: Settings) -> bool:
    """Whether the target differs from the revision that serves by an upgrade of the operator alone, and is not due."""
    status: Json = world.server.get("status", {})
    serving = revisions.get(serving_revision(revisions, status))
    if serving is None or serving.name == target.revision or target.revision in revisions.existing:
        return False
    if status.get("failed", {}).get("revision") == target.revision:
        return False
    made_for = serving.deployment["metadata"].get("annotations", {}).get(ASKED)
    if made_for not in (None, asked(world.server, target.release)):
        return False
    return world.turn is None or world.turn >= settings.max_concurrent_rollouts


def _target_of(server: Json, spec: ModelServerSpec, release: Release, settings: Settings) -> Target:
    pod = pod_spec(server, spec, release, settings)
    return Target(revision_of(pod, spec.pod), release, pod)


def _plan(world: World, revisions: Revisions, rollout: Rollout, needed: Changes | None, now: datetime) -> Plan:
    server = world.server
    status = write_status(world, revisions, rollout, now)
    emitted = events(server.get("status", {}), status, rollout)
    if needed is None:
        return Plan(status, events=emitted)
    return Plan(
        status,
        delete=needed.delete,
        apply=needed.apply,
        events=emitted,
        requeue_after=_requeue_after(world, revisions, rollout, needed),
    )


def _requeue_after(world: World, revisions: Revisions, rollout: Rollout, needed: Changes) -> float | None:
    decided = (revisions.get(revision) for revision in rollout.decision.replicas)
    is_in_line = rollout.waiting_for is not None and rollout.waiting_for.reason == reasons.WAITING_FOR_TURN
    is_waiting = is_in_line or rollout.is_progressing or any(revision and lacks_pods(revision) for revision in decided)
    times = (
        needed.requeue_after,
        rollout.decision.requeue_after,
        REQUEUE_SECONDS if is_waiting else None,
        SPECULATION_SECONDS if guesses(world.server) else None,
    )
    return min((seconds for seconds in times if seconds is not None), default=None)
