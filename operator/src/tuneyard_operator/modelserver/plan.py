"""Decides what a ModelServer needs next: a pure function of what was observed."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final

from pydantic import ValidationError

from tuneyard_api import names, reasons
from tuneyard_api.kinds.modelserver import ModelServerSpec
from tuneyard_operator.machinery.conditions import parse_time
from tuneyard_operator.machinery.objects import Json, is_deleting, label, matches, name
from tuneyard_operator.machinery.plan import STALLED_SECONDS, Plan, Rejection
from tuneyard_operator.modelserver import events
from tuneyard_operator.modelserver.artifact import Artifact, Missing, find_artifact, last_release
from tuneyard_operator.modelserver.children import (
    SWITCHED_AT,
    deployment,
    pod_spec,
    revision_of,
    scaled,
    service,
    woken,
)
from tuneyard_operator.modelserver.observe import Seen, World, is_ours, own_deployments, pointed, see
from tuneyard_operator.modelserver.status import Failed, Rollout, write_status
from tuneyard_operator.modelserver.strategies import STRATEGIES
from tuneyard_operator.modelserver.strategies.situation import Decision, Situation
from tuneyard_operator.settings import Settings

REFUSED: Final = "Refused"
TAKEN: Final = "belongs to someone else. Delete it, or give the ModelServer another name."
# Pods that do not come up may not send events of their own: a volume whose Secret is missing, for example.
LOOK_SECONDS: Final = 15.0
# Between the operator that has switched and the one that looks.
CLOCKS_DIFFER: Final = timedelta(seconds=5)


def plan(world: World, settings: Settings, now: datetime) -> Plan:
    """One step towards the revision that the spec asks for; the same again when nothing has changed."""
    try:
        spec = ModelServerSpec.model_validate(world.server["spec"])
    except ValidationError as error:
        return _stays(world, _describe(error), now)
    taken = world.service is not None and not is_ours(world.service, world)
    if taken:
        world = world._replace(rejection=Rejection(f"Service {name(world.server)}", TAKEN, final=True))
    served = served_revision(world)
    found = find_artifact(spec.model, world.job)
    release = found if isinstance(found, Artifact) else _last_release(world, spec, served)
    pod = pod_spec(world.server, spec, release, settings) if release else None
    target = revision_of(pod) if pod else None
    seen = see(world, target)
    given_up = _given_up(world, target, served, release, seen)
    failed = _refused(world, target) or given_up
    ready = bool(seen and seen.ready and int(seen.deployment["spec"].get("replicas", 0)) == spec.replicas)
    situation = Situation(target, served, ready, failed is not None, spec.replicas)
    decision = STRATEGIES[spec.rollout.strategy](situation)
    if decision.traffic == target and seen and (ready or seen.came_up) and not world.rejection:
        served = target
    traffic = pointed(world) if world.rejection else decision.traffic  # of what was refused nothing is done
    taken_back = given_up if served not in (None, target) else None
    missing = None if isinstance(found, Artifact) else found
    rollout = Rollout(target, release, missing, served, traffic, failed, taken_back)
    wanted = {target: deployment(world.server, spec, release, pod)} if pod and release else {}
    step = _step(world, settings, decision, rollout, wanted, now)
    return step._replace(apply=[], delete=[]) if taken else step


def served_revision(world: World) -> str | None:
    """The revision that got the traffic and has answered: told by the Service, or else by the status."""
    seen = see(world, pointed(world))
    # The Service is switched before the status is written, and the operator may have been killed in between.
    if seen and seen.came_up:
        return pointed(world)
    revision = world.server.get("status", {}).get("served", {}).get("revision")
    return str(revision) if revision and see(world, revision) else None


def _last_release(world: World, spec: ModelServerSpec, served: str | None) -> Artifact | None:
    """Goes on being rolled out, and served, while the FineTuneJob has nothing to offer, or is gone."""
    seen = see(world, served or pointed(world))
    return last_release(spec.model, world.server.get("status", {}), seen.deployment if seen else None)


def _refused(world: World, target: str | None) -> Failed | None:
    rejection = world.rejection
    return Failed(target or "", "", REFUSED, f"{rejection.what}: {rejection.message}") if rejection else None


def _given_up(
    world: World, target: str | None, served: str | None, release: Artifact | None, seen: Seen | None
) -> Failed | None:
    """What was given up for another revision stays so until the spec changes; the only one goes on trying."""
    if target is None or release is None:
        return None
    before = world.server.get("status", {}).get("failed", {})
    if before.get("revision") == target and served not in (None, target):
        return Failed(target, release.digest, before["reason"], before["message"])
    if seen and seen.trouble and seen.hopeless and not seen.ready:
        return Failed(target, release.digest, seen.trouble.reason, seen.trouble.text)
    return None


def _step(
    world: World,
    settings: Settings,
    decision: Decision,
    rollout: Rollout,
    wanted: dict[str | None, Json],
    now: datetime,
) -> Plan:
    # What goes away takes nothing any more; when it is gone, it is made again.
    going = {name(each) for each in world.deployments if is_deleting(each)}
    apply = [child for child in _deployments(world, decision, wanted, now) if child and name(child) not in going]
    switched = _switched_at(world, decision.traffic, now)
    if decision.traffic:
        front = service(world.server, decision.traffic, switched or now)
        apply += [] if world.service and matches(world.service, front) else [front]
    old = [each for each in own_deployments(world) if label(each, names.LABEL_REVISION) not in decision.replicas]
    old = [each for each in old if not is_deleting(each)]
    kept_for = timedelta(seconds=settings.retire) - (now - (switched or now))
    delete = old if old and kept_for <= timedelta() else []
    again = kept_for.total_seconds() if old and not delete and decision.traffic else None
    coming = rollout.target != rollout.served and not rollout.failed and rollout.target is not None
    short = any(seen.short for revision in decision.replicas if (seen := see(world, revision)))
    status = write_status(world, rollout, now)
    return Plan(
        status,
        delete=delete,
        apply=apply,
        events=events.events(world.server.get("status", {}), status, rollout),
        requeue_after=again if again is not None else (LOOK_SECONDS if coming or short else None),
    )


def _deployments(
    world: World, decision: Decision, wanted: dict[str | None, Json], now: datetime
) -> Iterator[Json | None]:
    """What to apply; None where a Deployment is as it should be."""
    for revision, replicas in decision.replicas.items():
        seen = see(world, revision)
        child = _deployment(seen, wanted.get(revision), replicas)
        if not child or not seen or not matches(seen.deployment, child):
            yield child
        else:
            yield woken(child, now) if seen.short and world.silence > STALLED_SECONDS else None


def _deployment(seen: Seen | None, wanted: Json | None, replicas: int) -> Json | None:
    """A revision's Deployment as it should be: anew from the spec, or else as it is there."""
    if wanted:
        return wanted | {"spec": wanted["spec"] | {"replicas": replicas}}
    return scaled(seen.deployment, replicas) if seen else None


def _switched_at(world: World, traffic: str | None, now: datetime) -> datetime | None:
    """Since when the Service points there; None while it does not, or where a clock that was wrong has said so."""
    there = world.service or {}
    if traffic is None or pointed(world) != traffic:
        return None
    since = there["metadata"].get("annotations", {}).get(SWITCHED_AT)
    return parse_time(since) if since and parse_time(since) <= now + CLOCKS_DIFFER else None


def _stays(world: World, message: str, now: datetime) -> Plan:
    """A spec that cannot be read changes nothing."""
    why = Missing(reasons.INVALID_SPEC, message)
    rollout = Rollout(None, None, why, served_revision(world), pointed(world), None, None)
    status = write_status(world, rollout, now)
    return Plan(status, events=events.events(world.server.get("status", {}), status, rollout))


def _describe(error: ValidationError) -> str:
    problems = [f"spec.{'.'.join(str(part) for part in each['loc'])}: {each['msg']}" for each in error.errors()]
    return f"{'; '.join(problems)}. Change the spec and apply it again."
