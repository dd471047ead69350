"""Checkpoints in the object store. A checkpoint without a manifest, which is written last, is ignored."""

import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from tuneyard_store.artifact import fetch_directory, publish_directory
from tuneyard_store.errors import ArtifactCorrupt
from tuneyard_trainer.runtime.context import StageContext

COMPLETE = re.compile(r"/step-(\d+)/manifest\.json$")


class Checkpoint(NamedTuple):
    step: int
    directory: Path


def complete_steps(uris: Iterable[str]) -> list[int]:
    """The steps of the complete checkpoints among these objects, newest first."""
    return sorted({int(match[1]) for uri in uris if (match := COMPLETE.search(uri))}, reverse=True)


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, context: StageContext) -> None:
        self.context = context
        self.store = context.store
        self.root = context.uri("train", "checkpoints")
        self.keep = context.spec.training.checkpoints.keep

    def steps(self) -> list[int]:
        return complete_steps(item.uri for item in self.store.list(self.root + "/"))

    def uri(self, step: int) -> str:
        return f"{self.root}/step-{step}"

    def save(self, directory: Path, step: int) -> None:
        """Uploads a checkpoint, removes it from this machine, and deletes all but the `keep` newest from the store."""
        publish_directory(self.store, directory, self.uri(step), "checkpoint")
        self.context.log.info("checkpoint of step %d is at %s", step, self.uri(step))
        shutil.rmtree(directory)
        for old in self.steps()[self.keep :]:
            # The manifest is deleted first: a half-deleted checkpoint must not look complete.
            self.store.delete_prefix(f"{self.uri(old)}/manifest.json")
            self.store.delete_prefix(f"{self.uri(old)}/")

    def fetch(self, step: int, to: Path) -> Checkpoint:
        """Downloads one checkpoint.

        Raises:
            ArtifactCorrupt: a file differs from the manifest.
        """
        directory = to / f"checkpoint-{step}"
        fetch_directory(self.store, self.uri(step), directory, None)
        return Checkpoint(step, directory)

    def fetch_newest(self, to: Path) -> Checkpoint | None:
        """Downloads the newest complete checkpoint; a damaged one is skipped."""
        for step in self.steps():
            try:
                return self.fetch(step, to)
            except ArtifactCorrupt as error:
                self.context.log.warning("checkpoint of step %d is damaged and skipped: %s", step, error)
                shutil.rmtree(to / f"checkpoint-{step}", ignore_errors=True)
        return None
