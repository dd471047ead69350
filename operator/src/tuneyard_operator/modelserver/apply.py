"""Turns a decision into changes of Deployments and of the Service."""

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from tuneyard_api.kinds.modelserver import ModelServerSpec
from tuneyard_operator.machinery.conditions import parse_time
from tuneyard_operator.machinery.objects import Json, matches, name
from tuneyard_operator.machinery.plan import STALLED_SECONDS
from tuneyard_operator.modelserver.children import (
    NUDGED_QUOTA,
    SWITCHED_AT,
    budget,
    deployment,
    nudged,
    scaled,
    service,
)
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
    selected = selected_revision(rollout.decision.traffic)
    switched_at = _switched_at(world.service, revisions.selected, selected, now) or now
    apply = [
        *_deployments(world, revisions, rollout, spec, now),
        *_service(world, selected, switched_at),
        *_budget(world, spec),
    ]
    replaced = [
        revision.deployment
        for revision in revisions.existing.values()
        if revision.name not in rollout.decision.replicas
    ]
    kept_for = retire_seconds - (now - switched_at).total_seconds()
    if replaced and kept_for <= 0:
        return Changes(apply, replaced, None)
    return Changes(apply, [], kept_for if replaced and selected else None)


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
    """The Deployments that differ from what was decided.

    One that is being deleted is not written to. It is created again when it is gone.
    """
    for revision, replicas in rollout.decision.replicas.items():
        existing = revisions.get(revision)
        child = _deployment(world.server, existing, rollout, spec, revision, replicas)
        if child is None or name(child) in revisions.deleting:
            continue
        if existing is None or not matches(existing.deployment, child):
            yield child
        elif lacks_pods(existing) and world.seconds_since_last_event > STALLED_SECONDS:
            yield nudged(child, now)
        elif existing.denial and world.quotas not in ("", _nudged_quota(existing)):
            yield nudged(child, now, world.quotas)


def _service(world: World, selected: str | None, switched_at: datetime) -> Iterator[Json]:
    """The Service, where it differs from what was decided."""
    if selected:
        child = service(world.server, selected, switched_at)
        if world.service is None or not matches(world.service, child):
            yield child


def _budget(world: World, spec: ModelServerSpec) -> Iterator[Json]:
    """The PodDisruptionBudget, where several replicas need one and it differs. It stays when there is one again."""
    child = budget(world.server)
    if spec.replicas > 1 and (world.budget is None or not matches(world.budget, child)):
        yield child


def _deployment(
    server: Json, existing: Revision | None, rollout: Rollout, spec: ModelServerSpec, revision: str, replicas: int
) -> Json | None:
    """The Deployment of a revision: of the target as the spec asks for it, of another one as it is."""
    target = rollout.target
    if target and target.revision == revision:
        return deployment(server, spec, target.release, target.pod, replicas)
    return scaled(existing.deployment, replicas) if existing else None


def _nudged_quota(revision: Revision) -> str | None:
    """The quotas with which the revision's pods were tried last: their controller waits up to 16 minutes by itself."""
    quotas: str | None = revision.deployment["metadata"].get("annotations", {}).get(NUDGED_QUOTA)
    return quotas


def lacks_pods(revision: Revision) -> bool:
    return revision.counts.existing < revision.counts.desired


def _switched_at(existing: Json | None, selected: str | None, wanted: str | None, now: datetime) -> datetime | None:
    """When the Service was switched to the wanted revision.

    None where it was not, or where the time lies in the future because the clock that wrote it was wrong.
    """
    if existing is None or wanted is None or selected != wanted:
        return None
    since = existing["metadata"].get("annotations", {}).get(SWITCHED_AT)
    return parse_time(since) if since and parse_time(since) <= now + CLOCK_SKEW else None
