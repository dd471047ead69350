"""`tuneyard gc`: deletes releases that are neither among the newest (spec.output.keep) nor in use.

A release names the digest of each of its stages, and releases share the stages that their specs agree on. A stage is
deleted when only deleted releases name it.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

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


def collect(store: Store, output: Output, keep: int | None, in_use: str | None, *, deletes: bool) -> list[str]:
    """Says what goes and what stays, a line each, and deletes it if asked to.

    Args:
        keep: in place of output.keep.
        in_use: the objects of the cluster, as text; None: not known.

    Raises:
        BadInput: neither says how many releases stay, or something would be deleted without knowing what is in use.
    """
    keep = output.keep if keep is None else keep
    if keep is None:
        raise BadInput(
            reasons.INVALID_SPEC, "output.keep is not set, so that all releases stay", "Set it, or give --keep."
        )
    if deletes and in_use is None:
        raise BadInput(
            reasons.INVALID_SPEC,
            "What the cluster uses is not known",
            "Give it: kubectl get finetunejobs,modelservers -A -o json | tuneyard gc FILE --in-use - --delete",
        )
    try:
        decision = decide(find_releases(store, output.uri), keep, in_use or "")
        size = sum(_bytes(store, output.uri, decision.doomed))
        if deletes:
            delete(store, output.uri, decision.doomed)
    except StoreError as error:
        raise from_store(error) from error
    return [*told(decision), f"{len(decision.doomed)} stages, {size / 1e6:.1f} MB{'' if deletes else DRY_RUN}"]


def told(decision: Decision) -> Iterator[str]:
    """The decision, a line each."""
    for release, why in decision.kept:
        yield f"keep    {_line(release)}  {why}"
    for release in decision.deleted:
        yield f"delete  {_line(release)}"


def _line(release: Published) -> str:
    return f"{release.digest[:12]}  {release.at:%Y-%m-%d %H:%M}"


def _bytes(store: Store, output_uri: str, doomed: Mapping[str, Stage]) -> Iterator[int]:
    for digest, stage in doomed.items():
        yield from (item.size for item in store.list(f"{stage_uri(output_uri, digest, stage)}/"))
