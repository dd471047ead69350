"""Checkpoints in the object store: complete (their manifest is there, it is written last) or as good as absent."""

import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tuneyard_store.artifact import fetch_directory, publish_directory
from tuneyard_store.errors import ArtifactCorrupt
from tuneyard_store.store import Store

if TYPE_CHECKING:
    from tuneyard_trainer.runtime.stage_runner import StageContext

COMPLETE = re.compile(r"/step-(\d+)/manifest\.json$")


class Checkpoint(NamedTuple):
    step: int
    directory: Path


def complete_steps(uris: Iterable[str]) -> list[int]:
    """The steps that have a complete checkpoint among these objects, newest first."""
    return sorted({int(match[1]) for uri in uris if (match := COMPLETE.search(uri))}, reverse=True)


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, context: "StageContext") -> None:
        self.context = context
        self.store: Store = context.store
        self.root = context.uri("train", "checkpoints")
        self.keep = context.spec.training.checkpoints.keep

    def steps(self) -> list[int]:
        return complete_steps(item.uri for item in self.store.list(self.root + "/"))

    def uri(self, step: int) -> str:
        return f"{self.root}/step-{step}"

    def save(self, directory: Path, step: int) -> None:
        """Uploads a checkpoint, then removes it here and what is older than the `keep` newest there."""
        publish_directory(self.store, directory, self.uri(step), "checkpoint")
        self.context.log.info("checkpoint of step %d is at %s", step, self.uri(step))
        shutil.rmtree(directory)
        for old in self.steps()[self.keep :]:
            # The manifest goes first: what is being removed is no longer complete.
            self.store.delete_prefix(f"{self.uri(old)}/manifest.json")
            self.store.delete_prefix(f"{self.uri(old)}/")

    def fetch(self, step: int, to: Path) -> Checkpoint:
        """Downloads one checkpoint.

        Raises:
            ArtifactCorrupt: a file is not what the manifest says.
        """
        directory = to / f"checkpoint-{step}"
        fetch_directory(self.store, self.uri(step), directory, None)
        return Checkpoint(step, directory)

    def fetch_newest(self, to: Path) -> Checkpoint | None:
        """Downloads the newest checkpoint that is complete and whole; a damaged one is passed over."""
        for step in self.steps():
            try:
                return self.fetch(step, to)
            except ArtifactCorrupt as error:
                self.context.log.warning("checkpoint of step %d is passed over: %s", step, error)
                shutil.rmtree(to / f"checkpoint-{step}", ignore_errors=True)
        return None
