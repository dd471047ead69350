"""`tuneyard gc`: deletes releases that are neither among the newest (spec.output.keep) nor in use.

A release names the digest of each of its stages, and releases share the stages that their specs agree on. A stage is
deleted when only deleted releases name it.

With --unpublished-days it deletes, too, what runs have left that never published: stages that no release names, that
are not in use, and into which nothing was written for so long.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple, get_args

from tuneyard_api import reasons
from tuneyard_api.contracts.results import RELEASE_FILE, STAGE_MARK, Release, stage_uri
from tuneyard_api.kinds.finetunejob import Output
from tuneyard_api.names import Stage
from tuneyard_api.stages import STAGES
from tuneyard_store.errors import StoreError
from tuneyard_store.store import Store
from tuneyard_trainer.runtime.errors import BadInput, from_store

DRY_RUN: Final = ". Nothing is deleted without --delete."
DIGEST: Final = re.compile(r"[0-9a-f]{64}")


class Published(NamedTuple):
    """A release in the store."""

    digest: str
    """Of its publish stage."""
    at: datetime
    stages: Mapping[Stage, str]
    artifacts: frozenset[str]
    """The digests of its artifacts and its adapter, without sha256:"""

    @property
    def named(self) -> frozenset[str]:
        """All digests by which objects of a cluster may name it."""
        return self.artifacts | set(self.stages.values())


class Unpublished(NamedTuple):
    """A stage of a run that has no release."""

    digest: str
    stage: Stage
    at: datetime
    """When something was written there last."""


class Decision(NamedTuple):
    """What happens to the releases, newest first, and why."""

    kept: list[tuple[Published, str]]
    deleted: list[Published]
    doomed: dict[str, Stage]
    """The stages that go, by their digest."""


def find_releases(store: Store, output_uri: str) -> list[Published]:
    """The releases below spec.output.uri, newest first."""
    root = f"{output_uri.rstrip('/')}/runs/"
    found = [item for item in store.list(root) if item.uri.endswith(f"/publish/{RELEASE_FILE}")]
    return sorted((_read(store, item.uri, item.modified) for item in found), key=lambda item: item.at, reverse=True)


def find_unpublished(store: Store, output_uri: str, releases: Sequence[Published]) -> list[Unpublished]:
    """The stages below spec.output.uri that no release names, oldest first."""
    root = f"{output_uri.rstrip('/')}/runs/"
    published = {digest for release in releases for digest in release.stages.values()}
    written: dict[tuple[str, Stage], float] = {}
    for item in store.list(root):
        digest, _, rest = item.uri.removeprefix(root).partition("/")
        stage = next((name for name in get_args(Stage) if rest.startswith(f"{name}/")), None)
        if stage and DIGEST.fullmatch(digest) and digest not in published:
            key = digest, stage
            written[key] = max(item.modified, written.get(key, item.modified))
    found = [Unpublished(*key, datetime.fromtimestamp(at, UTC)) for key, at in written.items()]
    return sorted(found, key=lambda stage: stage.at)


def outdated(stages: Sequence[Unpublished], in_use: str, before: datetime) -> list[Unpublished]:
    """Of these stages those that go: not in use, and last written before that time."""
    used = set(DIGEST.findall(in_use))
    return [stage for stage in stages if stage.digest not in used and stage.at < before]


def _read(store: Store, uri: str, modified: float) -> Published:
    release = Release.model_validate_json(store.read(uri))
    refs = [*release.artifacts, *filter(None, [release.adapter])]
    return Published(
        digest=release.digests["publish"],
        at=datetime.fromtimestamp(modified, UTC),
        stages=release.digests,
        artifacts=frozenset(ref.digest.removeprefix("sha256:") for ref in refs),
    )


def decide(releases: Sequence[Published], keep: int, in_use: str) -> Decision:
    """Which releases and stages go.

    Args:
        releases: newest first.
        keep: how many of them stay in any case.
        in_use: any text; a release or stage whose digest stands in it stays.
    """
    used = set(DIGEST.findall(in_use))
    kept: list[tuple[Published, str]] = []
    deleted: list[Published] = []
    for number, release in enumerate(releases):
        if number < keep:
            kept.append((release, f"one of the newest {keep}"))
        elif release.named & used:
            kept.append((release, "in use"))
        else:
            deleted.append(release)
    needed = used.union(*(release.stages.values() for release, _ in kept))
    doomed = {digest: stage for release in deleted for stage, digest in release.stages.items() if digest not in needed}
    return Decision(kept, deleted, doomed)


def delete(store: Store, output_uri: str, doomed: Mapping[str, Stage]) -> None:
    """Deletes stages, the last of the chain first. The commit mark of each goes before its files: it is never adopted
    half-deleted."""
    for stage in reversed(STAGES):
        for digest in (digest for digest, name in doomed.items() if name == stage):
            store.delete_prefix(stage_uri(output_uri, digest, stage, STAGE_MARK))
            store.delete_prefix(f"{stage_uri(output_uri, digest, stage)}/")


def collect(
    store: Store,
    output: Output,
    keep: int | None,
    in_use: str | None,
    *,
    unpublished_days: int | None = None,
    deletes: bool,
) -> list[str]:
    """Says what goes and what stays, a line each, and deletes it if asked to.

    Args:
        keep: in place of output.keep.
        in_use: the objects of the cluster, as text; None: not known.
        unpublished_days: the age at which stages without a release go; None: they stay.

    Raises:
        BadInput: nothing says what may go, or something would be deleted without knowing what is in use.
    """
    keep = output.keep if keep is None else keep
    _check(keep, in_use, unpublished_days, deletes)
    try:
        releases = find_releases(store, output.uri)
        decision = decide(releases, len(releases) if keep is None else keep, in_use or "")
        left = _left_behind(store, output.uri, releases, in_use or "", unpublished_days)
        doomed = decision.doomed | {stage.digest: stage.stage for stage in left}
        size = sum(_bytes(store, output.uri, doomed))
        if deletes:
            delete(store, output.uri, doomed)
    except StoreError as error:
        raise from_store(error) from error
    total = f"{len(doomed)} stages, {size / 1e6:.1f} MB{'' if deletes else DRY_RUN}"
    return [*told(decision), *(f"delete  {_line(stage)}  unpublished {stage.stage}" for stage in left), total]


def _check(keep: int | None, in_use: str | None, unpublished_days: int | None, deletes: bool) -> None:
    if keep is None and unpublished_days is None:
        raise BadInput(
            reasons.INVALID_SPEC,
            "output.keep is not set, so that all releases stay",
            "Set it, or give --keep or --unpublished-days.",
        )
    if deletes and in_use is None:
        raise BadInput(
            reasons.INVALID_SPEC,
            "What the cluster uses is not known",
            "Give it: kubectl get finetunejobs,modelservers -A -o json | tuneyard gc FILE --in-use - --delete",
        )


def _left_behind(
    store: Store, output_uri: str, releases: Sequence[Published], in_use: str, days: int | None
) -> list[Unpublished]:
    if days is None:
        return []
    return outdated(find_unpublished(store, output_uri, releases), in_use, datetime.now(UTC) - timedelta(days=days))


def told(decision: Decision) -> Iterator[str]:
    """The decision, a line each."""
    for release, why in decision.kept:
        yield f"keep    {_line(release)}  {why}"
    for release in decision.deleted:
        yield f"delete  {_line(release)}"


def _line(item: Published | Unpublished) -> str:
    return f"{item.digest[:12]}  {item.at:%Y-%m-%d %H:%M}"


def _bytes(store: Store, output_uri: str, doomed: Mapping[str, Stage]) -> Iterator[int]:
    for digest, stage in doomed.items():
        yield from (item.size for item in store.list(f"{stage_uri(output_uri, digest, stage)}/"))
