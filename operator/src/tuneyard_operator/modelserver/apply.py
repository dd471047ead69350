"""Turns a decision into changes of Deployments and of the Service."""

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from tuneyard_api.kinds.modelserver import ModelServerSpec
from tuneyard_operator.machinery.conditions import parse_time
from tuneyard_operator.machinery.objects import Json, matches, name
from tuneyard_operator.machinery.plan import STALLED_SECONDS
from tuneyard_operator.modelserver.children import SWITCHED_AT, deployment, nudged, scaled, service
from tuneyard_operator.modelserver.observe import World
from tuneyard_operator.modelserver.revisions import Revision, Revisions
from tuneyard_operator.modelserver.rollout import Rollout

# How far the clocks of two operator replicas may differ.
CLOCK_SKEW: Final = timedelta(seconds=5)


class Changes(NamedTuple):
    """What to write, and in how many seconds there may be more to delete."""

    apply: list[Json]
    delete: list[Json]
    requeue_after: float | None


def changes(
    world: World, revisions: Revisions, rollout: Rollout, spec: ModelServerSpec, retire_seconds: float, now: datetime
) -> Changes:
    """The changes that a decision needs; none where it is carried out already.

    Args:
        retire_seconds: how long a revision is kept after the Service was switched to another one.
    """
    decision = rollout.decision
    selected = selected_revision(decision.traffic)
    switched_at = _switched_at(world.service, revisions.selected, selected, now)
    # A Deployment that is being deleted is not written to. It is created again afterwards.
    wanted = _deployments(world, revisions, rollout, spec, now)
    apply = [child for child in wanted if name(child) not in revisions.deleting]
    if selected:
        front = service(world.server, selected, switched_at or now)
        apply += [] if world.service and matches(world.service, front) else [front]
    old = [found.deployment for revision, found in revisions.existing.items() if revision not in decision.replicas]
    kept_for = retire_seconds - (now - (switched_at or now)).total_seconds()
    if old and kept_for <= 0:
        return Changes(apply, old, None)
    return Changes(apply, [], kept_for if old and selected else None)


def selected_revision(traffic: Mapping[str, int]) -> str | None:
    """The revision that gets all traffic, or None.

    Raises:
        ValueError: the traffic is split, which a Service cannot do.
    """
    split = {revision: weight for revision, weight in traffic.items() if weight not in (0, 100)}
    if split:
        raise ValueError(f"traffic cannot be split as {split}: a Service sends all of it to one revision")
    return next((revision for revision, weight in traffic.items() if weight == 100), None)


def _deployments(
    world: World, revisions: Revisions, rollout: Rollout, spec: ModelServerSpec, now: datetime
) -> Iterator[Json]:
    """The Deployments that differ from what was decided."""
    for revision, replicas in rollout.decision.replicas.items():
        existing = revisions.get(revision)
        child = _deployment(world.server, existing, rollout, spec, revision, replicas)
        if child is None:
            continue
        if existing is None or not matches(existing.deployment, child):
            yield child
        elif lacks_pods(existing) and world.seconds_since_last_event > STALLED_SECONDS:
            yield nudged(child, now)


def _deployment(
    server: Json, existing: Revision | None, rollout: Rollout, spec: ModelServerSpec, revision: str, replicas: int
) -> Json | None:
    """The Deployment of a revision: of the target as the spec asks for it, of another one as it is."""
    target = rollout.target
    if target and target.revision == revision:
        return deployment(server, spec, target.release, target.pod, replicas)
    return scaled(existing.deployment, replicas) if existing else None


def lacks_pods(revision: Revision) -> bool:
    return revision.counts.existing < revision.counts.desired


def _switched_at(there: Json | None, selected: str | None, wanted: str | None, now: datetime) -> datetime | None:
    """When the Service was switched to the wanted revision.

    None where it was not, or where the time lies in the future because the clock that wrote it was wrong.
    """
    if there is None or wanted is None or selected != wanted:
        return None
    since = there["metadata"].get("annotations", {}).get(SWITCHED_AT)
    return parse_time(since) if since and parse_time(since) <= now + CLOCK_SKEW else None
